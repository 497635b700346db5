"""Rounding weights to 8 or 4 bits.

A weight is kept as a whole number, its code, times a scale that it shares with its group: w = c s.
The scale is chosen so that the group's largest weight gets the largest code (symmetric, absmax)."""

import torch
from torch import Tensor


def quantize_matrix(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Weights `(rows, columns)` to codes, int8 of the same shape, from `-(2**(bits - 1) - 1)` up to
    the same above 0, and scales `(rows, groups)`: each run of `group_size` columns is a group."""
    most = 2 ** (bits - 1) - 1
    groups = weight.unflatten(1, (-1, group_size))  # (rows, groups, group_size)
    scales = groups.abs().amax(-1) / most  # (rows, groups)
    scales = scales.half().float().clamp(min=1e-7)  # as they will be kept
    codes = (groups / scales.unsqueeze(-1)).round().clamp(-most, most)
    return codes.flatten(1).to(torch.int8), scales


def pack_nibbles(codes: Tensor) -> Tensor:
    """Two 4-bit codes, -7 to 7, in each byte: `(rows, columns)` to `(rows, columns / 2)`."""
    low, high = (codes + 8).to(torch.uint8).unflatten(1, (-1, 2)).unbind(-1)
    return low | (high << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """What `pack_nibbles` was given."""
    return torch.stack((packed & 15, packed >> 4), -1).flatten(1).to(torch.int8) - 8
