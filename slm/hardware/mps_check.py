"""A check of a Mac's GPU, which has computed wrongly with some versions of PyTorch (optional)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def computes_rightly(device: str) -> bool:
    """Whether attention's gradients are the same there as on the processor."""
    try:
        found = _attention_gradients(device)
    except (AssertionError, NotImplementedError, RuntimeError):
        return False
    return torch.allclose(found, _attention_gradients("cpu"), rtol=1e-2, atol=1e-3)


def _attention_gradients(device: str) -> Tensor:
    """Gradients `(3, B, H, T, D)` of some queries, keys and values, which are always the same."""
    numbers = torch.linspace(-2, 2, 3 * 2 * 64 * 32).sin()
    qkv = numbers.view(3, 1, 2, 64, 32).to(device).requires_grad_()
    F.scaled_dot_product_attention(*qkv, is_causal=True).square().sum().backward()
    return qkv.grad.cpu()
