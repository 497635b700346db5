"""The transformer's arithmetic once more, for one new token at a time: the same numbers from fewer
and larger operations, which for so small a model is what the time depends on."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slm.model.kv_cache import KVCache
from slm.model.transformer import Transformer


def product(parts: Sequence[nn.Module], factor: Tensor | float = 1.0) -> Callable:
    """`x` to what it gives with the matrices of several parts, side by side; before that, each
    number of `x` is to be multiplied by `factor`. Other kinds of parts know how themselves."""
    if hasattr(parts[0], "product"):
        return parts[0].product(parts, factor)
    matrix = (torch.cat([part.weight for part in parts]) * factor).T.contiguous()
    return lambda x: x @ matrix


class NextToken:
    """`next_token(ids, cache)` is `model(ids.unsqueeze(1), cache)[:, 0]`, without calling the parts
    of the model one by one. It takes the weights as they are now, not as they will be."""

    @torch.no_grad()
    def __init__(self, model: Transformer):
        config, self.decoder, self.layers = model.config, model.model, []
        H, G, D = config.n_heads, config.n_kv_heads, config.head_dim
        # RMSNorm is x / sqrt(|x|^2 + C eps), a hypotenuse, times its weight and the root of C. By
        # these two, the matrices after it are multiplied once and for all.
        scale = config.d_model**0.5
        for layer in model.model.layers:
            attend, mlp = layer.self_attn, layer.mlp
            before, between = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
            qkv = product((attend.q_proj, attend.k_proj, attend.v_proj), before * scale)
            gate_up = product((mlp.gate_proj, mlp.up_proj), between * scale)
            self.layers.append((qkv, product([attend.o_proj]), gate_up, product([mlp.down_proj])))
        table = model.model.embed_tokens if config.tie_embeddings else model.lm_head
        self.scores, table = product([table], model.model.norm.weight * scale), table.weight
        self.short = table.new_tensor(config.norm_eps**0.5 * scale)
        self.heads, self.grouped = (H, G, D), G < H
        # To turn the pair (a, b), add (-b, a) times the sine. Values are turned by nothing.
        self.signs = table.new_tensor([-1, 1]).repeat_interleave(D // 2)
        self.turned = (torch.arange(H + 2 * G, device=table.device) < H + G).view(-1, 1, 1)

    @torch.inference_mode()
    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Ids `(B,)`, which continue what the cache holds, to logits `(B, V)`."""
        H, G, D = self.heads
        cos, sin = self.decoder.positions(cache.length, cache.length + 1)  # (1, D)
        cos, sin = torch.where(self.turned, cos, 1.0), self.turned * (sin * self.signs)

        def norm(x: Tensor) -> Tensor:
            return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.short)

        x = self.decoder.embed_tokens(ids)  # (B, C)
        for number, (qkv, o, gate_up, down) in enumerate(self.layers):
            heads = qkv(norm(x)).view(-1, H + 2 * G, 1, D)
            heads = torch.addcmul(heads * cos, heads.roll(D // 2, dims=-1), sin)
            k, v = cache.extend(number, heads.narrow(1, H, 2 * G))  # (B, G, S, D)
            q, gqa = heads.narrow(1, 0, H), self.grouped
            x = x + o(F.scaled_dot_product_attention(q, k, v, enable_gqa=gqa).flatten(1))
            gate, up = gate_up(norm(x)).chunk(2, dim=-1)  # (B, F) each
            x = x + down(F.silu(gate) * up)
        cache.length += 1
        return self.scores(norm(x))


class NextTokens(NextToken):
    """`NextToken` for rows that have come differently far."""

    @torch.inference_mode()
    def __call__(self, ids: Tensor, lengths: Tensor, layers: list[Tensor]) -> Tensor:
        """Ids `(B,)`, each the next after so many as `lengths` `(B,)` says, to logits `(B, V)`.
        `layers` hold keys and values, `(rows, 2 G, T, D)` each, of which the first B are used."""
        H, G, D = self.heads
        cos, sin = self.decoder.tables[:, lengths, None, None]  # (B, 1, 1, D) each
        cos, sin = torch.where(self.turned, cos, 1.0), self.turned * (sin * self.signs)
        places, B, S = torch.arange(len(ids)), len(ids), int(lengths.max()) + 1
        mask = (torch.arange(S) <= lengths.unsqueeze(1)).view(B, 1, 1, S)

        def norm(x: Tensor) -> Tensor:
            return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.short)

        x = self.decoder.embed_tokens(ids)  # (B, C)
        for layer, (qkv, o, gate_up, down) in zip(layers, self.layers, strict=True):
            heads = qkv(norm(x)).view(B, H + 2 * G, 1, D)
            heads = torch.addcmul(heads * cos, heads.roll(D // 2, dims=-1), sin)
            layer[places, :, lengths] = heads[:, H:, 0]
            k, v = layer[:B, :, :S].chunk(2, dim=1)  # (B, G, S, D)
            y = F.scaled_dot_product_attention(heads[:, :H], k, v, mask, enable_gqa=self.grouped)
            x = x + o(y.flatten(1))
            gate, up = gate_up(norm(x)).chunk(2, dim=-1)  # (B, F) each
            x = x + down(F.silu(gate) * up)
        return self.scores(norm(x))
