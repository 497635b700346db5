"""The transformer's arithmetic once more, for one new token at a time: the same numbers from fewer
and larger operations, which for so small a model is what the time depends on."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from slm.model import KVCache, Transformer, rotate


class NextToken:
    """`next_token(ids, cache)` is `model(ids.unsqueeze(1), cache)[:, 0]`, without calling the parts
    of the model one by one. It takes the weights as they are now, not as they will be."""

    @torch.no_grad()
    def __init__(self, model: Transformer):
        self.config, self.decoder, self.layers = model.config, model.model, []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            qkv = attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight
            gate_up = mlp.gate_proj.weight, mlp.up_proj.weight
            # What a norm multiplies by, the matrices after it can be multiplied by beforehand.
            qkv = torch.cat(qkv) * layer.input_layernorm.weight
            gate_up = torch.cat(gate_up) * layer.post_attention_layernorm.weight
            self.layers.append((qkv, attention.o_proj.weight.T, gate_up, mlp.down_proj.weight.T))
        table = model.model.embed_tokens if model.config.tie_embeddings else model.lm_head
        self.table = table.weight * model.model.norm.weight  # (V, C)

    @torch.no_grad()
    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Ids `(B,)`, which continue what the cache holds, to logits `(B, V)`."""
        H, G, D = self.config.n_heads, self.config.n_kv_heads, self.config.head_dim
        cos, sin = self.decoder.positions(cache.length, cache.length + 1)  # (1, D)
        x = self.decoder.embed_tokens.weight[ids]  # (B, C)
        norm = partial(F.rms_norm, normalized_shape=x.shape[-1:], eps=self.config.norm_eps)
        for number, (qkv, o, gate_up, down) in enumerate(self.layers):
            heads = F.linear(norm(x), qkv).unflatten(-1, (-1, 1, D))  # (B, H + 2 G, 1, D)
            turned, v = heads.split((H + G, G), dim=1)
            q, k = rotate(turned, cos, sin).split((H, G), dim=1)
            k, v = cache.extend(number, k, v)  # (B, G, S, D)
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=G < H)  # (B, H, 1, D)
            x = torch.addmm(x, y.flatten(1), o)
            gate, up = F.linear(norm(x), gate_up).chunk(2, dim=-1)  # (B, F) each
            x = torch.addmm(x, F.silu(gate) * up, down)
        cache.length += 1
        return F.linear(norm(x), self.table)
