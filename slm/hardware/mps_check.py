"""A check of a Mac's GPU, which has computed wrongly with some versions of PyTorch (optional)."""

import torch
import torch.nn.functional as F


def computes_rightly(device: str) -> bool:
    """Whether attention and its gradients are there what they are on the processor."""
    slopes = []
    for place in ("cpu", device):
        x = torch.linspace(-2, 2, 3 * 2 * 64 * 32).sin().view(3, 1, 2, 64, 32)
        try:
            x = x.to(place).requires_grad_()
            F.scaled_dot_product_attention(*x, is_causal=True).square().sum().backward()
        except (AssertionError, NotImplementedError, RuntimeError):
            return False
        slopes.append(x.grad.cpu())
    return torch.allclose(*slopes, rtol=1e-2, atol=1e-3)
