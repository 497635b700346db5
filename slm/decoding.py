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
        config, self.decoder, self.layers = model.config, model.model, []
        H, G, D = config.n_heads, config.n_kv_heads, config.head_dim
        # RMSNorm is x / sqrt(|x|^2 + C eps), a hypotenuse, times its weight and the root of C. By
        # these two, the matrices after it are multiplied once and for all.
        scale = config.d_model**0.5
        for layer in model.model.layers:
            attend, mlp = layer.self_attn, layer.mlp
            qkv = torch.cat((attend.q_proj.weight, attend.k_proj.weight, attend.v_proj.weight))
            gate_up = torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))
            qkv *= layer.input_layernorm.weight * scale
            gate_up *= layer.post_attention_layernorm.weight * scale
            matrices = qkv, attend.o_proj.weight, gate_up, mlp.down_proj.weight
            self.layers.append([matrix.T.contiguous() for matrix in matrices])
        table = model.model.embed_tokens if config.tie_embeddings else model.lm_head
        self.table = (table.weight * model.model.norm.weight * scale).T.contiguous()  # (C, V)
        self.short = table.weight.new_tensor(config.norm_eps**0.5 * scale)
        self.heads, self.grouped = (H, G, D), G < H
        # To turn the pair (a, b), add (-b, a) times the sine. Values are turned by nothing.
        self.signs = table.weight.new_tensor([-1, 1]).repeat_interleave(D // 2)
        self.turned = (torch.arange(H + 2 * G, device=table.weight.device) < H + G).view(-1, 1, 1)

    @torch.inference_mode()
    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Ids `(B,)`, which continue what the cache holds, to logits `(B, V)`."""
        H, G, D = self.heads
        cos, sin = self.decoder.positions(cache.length, cache.length + 1)  # (1, D)
        cos, sin = torch.where(self.turned, cos, 1.0), self.turned * (sin * self.signs)

        def norm(x: Tensor) -> Tensor:
            return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.short)

        x = self.decoder.embed_tokens.weight[ids]  # (B, C)
        for number, (qkv, o, gate_up, down) in enumerate(self.layers):
            heads = (norm(x) @ qkv).view(-1, H + 2 * G, 1, D)
            heads = torch.addcmul(heads * cos, heads.roll(D // 2, dims=-1), sin)
            k, v = cache.extend(number, heads.narrow(1, H, 2 * G))  # (B, G, S, D)
            q = heads.narrow(1, 0, H)
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.grouped)
            x = torch.addmm(x, y.flatten(1), o)
            gate, up = (norm(x) @ gate_up).chunk(2, dim=-1)  # (B, F) each
            x = torch.addmm(x, F.silu(gate) * up, down)
        cache.length += 1
        return norm(x) @ self.table
