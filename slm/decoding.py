"""The transformer's arithmetic once more, for one new token at a time: the same numbers from fewer
and larger operations, which for so small a model is what the time depends on."""

import torch
import torch.nn.functional as F
from torch import Tensor

from slm.model import KVCache, Transformer


class NextToken:
    """`next_token(ids, cache)` is `model(ids.unsqueeze(1), cache)[:, 0]`, without calling the parts
    of the model one by one. It takes the weights as they are now, not as they will be."""

    @torch.no_grad()
    def __init__(self, model: Transformer):
        self.config, self.decoder, self.layers = model.config, model.model, []
        for layer in model.model.layers:
            attend, mlp = layer.self_attn, layer.mlp
            qkv = torch.cat((attend.q_proj.weight, attend.k_proj.weight, attend.v_proj.weight))
            gate_up = torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))
            # What a norm multiplies by, the matrices after it can be multiplied by beforehand.
            qkv *= layer.input_layernorm.weight
            gate_up *= layer.post_attention_layernorm.weight
            matrices = qkv, attend.o_proj.weight, gate_up, mlp.down_proj.weight
            self.layers.append([matrix.T.contiguous() for matrix in matrices])
        table = model.model.embed_tokens if model.config.tie_embeddings else model.lm_head
        self.table = (table.weight * model.model.norm.weight).T.contiguous()  # (C, V)
        self.sign = table.weight.new_tensor([-1, 1]).repeat_interleave(model.config.head_dim // 2)

    @torch.no_grad()
    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Ids `(B,)`, which continue what the cache holds, to logits `(B, V)`."""
        H, G, D = self.config.n_heads, self.config.n_kv_heads, self.config.head_dim
        cos, sin = self.decoder.positions(cache.length, cache.length + 1)  # (1, D)
        sin = sin * self.sign  # to turn the pair (a, b), add (-b, a) times the sine

        def norm(x: Tensor) -> Tensor:
            return x * ((x * x).mean(-1, keepdim=True) + self.config.norm_eps).rsqrt()

        x = self.decoder.embed_tokens.weight[ids]  # (B, C)
        for number, (qkv, o, gate_up, down) in enumerate(self.layers):
            qk, v = (norm(x) @ qkv).unflatten(-1, (-1, 1, D)).split((H + G, G), dim=1)
            qk = torch.addcmul(qk * cos, qk.roll(D // 2, dims=-1), sin)  # (B, H + G, 1, D)
            k, v = cache.extend(number, qk[:, H:], v)  # (B, G, S, D)
            y = F.scaled_dot_product_attention(qk[:, :H], k, v, enable_gqa=G < H)
            x = torch.addmm(x, y.flatten(1), o)
            gate, up = (norm(x) @ gate_up).chunk(2, dim=-1)  # (B, F) each
            x = torch.addmm(x, F.silu(gate) * up, down)
        cache.length += 1
        return norm(x) @ self.table
