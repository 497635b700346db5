"""Looking inside: what each head of a model pays attention to (optional)."""

import torch
from torch import Tensor

from slm.model.transformer import Transformer, evaluating


def attention_maps(model: Transformer, ids: Tensor) -> Tensor:
    """How much each token attends to each earlier one: `(T,)` or `(1, T)` ids to `(L, H, T, T)`.
    Row t of a map holds the weights, summing to 1, with which token t gathers tokens 0 to t."""
    decoder, T, maps = model.model, ids.shape[-1], []
    if ids.numel() != T:
        raise ValueError(f"attention_maps takes one row of ids, not {tuple(ids.shape)}.")
    cos, sin = decoder.positions(0, T)
    future = torch.ones(T, T, dtype=torch.bool, device=ids.device).triu(1)
    with evaluating(model):
        x = decoder.embed_tokens(ids.view(1, T))  # (1, T, C)
        for layer in decoder.layers:
            q, k, _ = layer.self_attn.project(layer.input_layernorm(x), cos, sin)
            k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # (1, H, T, D)
            scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # (1, H, T, T)
            maps.append(scores.masked_fill(future, float("-inf")).softmax(-1))
            x = layer(x, cos, sin)
    return torch.cat(maps)  # (L, H, T, T)
