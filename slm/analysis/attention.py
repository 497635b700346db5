"""Looking inside: what each head of a model pays attention to."""

import torch
from torch import Tensor

from slm.model.transformer import Attention, Transformer, causal_mask, evaluating


def attention_maps(model: Transformer, ids: Tensor) -> Tensor:
    """How much each token attends to each earlier one: `(T,)` or `(1, T)` ids to `(L, H, T, T)`.

    Row t of a map holds the weights, summing to 1, with which token t gathers tokens 0 to t. They
    are computed beside the model, from what goes into each attention while it reads the ids.
    """
    tokens = ids.shape[-1]
    if ids.numel() != tokens:
        raise ValueError(f"attention_maps takes one row of ids, not {tuple(ids.shape)}.")
    maps = []

    def record(attention: Attention, inputs: tuple) -> None:
        x, cos, sin = inputs[:3]
        maps.append(attention_weights(attention, x, cos, sin))

    hooks = [layer.self_attn.register_forward_pre_hook(record) for layer in model.model.layers]
    try:
        with evaluating(model):
            model(ids.view(1, tokens))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(maps)  # (L, H, T, T)


def attention_weights(attention: Attention, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """How much the tokens in `x` `(B, T, C)` attend to each other: softmax(q k / sqrt(D)).

    These are the weights `(B, H, T, T)` that `slm.model.attend` multiplies with the values, and
    does not return.
    """
    q, k, _ = attention.project(x, cos, sin)  # (B, H, T, D), (B, G, T, D)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # (B, H, T, D)
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # (B, H, T, T)
    tokens = x.shape[1]
    seen = causal_mask(tokens, tokens, x.device)  # (T, T)
    return scores.masked_fill(~seen, float("-inf")).softmax(-1)
