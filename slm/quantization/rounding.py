"""Rounding weights to 8 or 4 bits.

A weight w is kept as a whole number, its code c, times a scale s that it shares with its group:
w = c s. The scale is chosen so that the group's largest weight gets the largest code (symmetric
absmax quantization).
"""

import torch
from torch import Tensor


def quantize_matrix(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Round weights `(rows, columns)`; each run of `group_size` columns is a group.

    Returns the codes, int8 `(rows, columns)`, from -127 to 127 for 8 bits and from -7 to 7 for 4,
    and the scales `(rows, groups)`.
    """
    largest_code = 2 ** (bits - 1) - 1
    groups = weight.unflatten(1, (-1, group_size))  # (rows, groups, group_size)
    scales = groups.abs().amax(-1) / largest_code  # (rows, groups)
    scales = scales.half().float()  # they will be stored with 16 bits
    scales = scales.clamp(min=1e-7)  # a group of zeros must not divide by zero
    codes = (groups / scales.unsqueeze(-1)).round().clamp(-largest_code, largest_code)
    return codes.flatten(1).to(torch.int8), scales


def pack_nibbles(codes: Tensor) -> Tensor:
    """Two 4-bit codes, -7 to 7, in each byte: `(rows, columns)` to `(rows, columns / 2)`."""
    unsigned = (codes + 8).to(torch.uint8)  # 1 to 15
    low, high = unsigned.unflatten(1, (-1, 2)).unbind(-1)  # (rows, columns / 2) each
    return low | (high << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """The codes `(rows, columns)` that `pack_nibbles` was given."""
    low = packed & 15
    high = packed >> 4
    unsigned = torch.stack((low, high), -1).flatten(1)  # (rows, columns)
    return unsigned.to(torch.int8) - 8


def dequantize(codes: Tensor, scales: Tensor, bits: int, group_size: int) -> Tensor:
    """Codes `(rows, columns)`, packed where `bits` is 4, times their groups' scales
    `(rows, groups)`: float32 weights `(rows, columns)`.
    """
    if bits == 4:
        codes = unpack_nibbles(codes)
    groups = codes.float().unflatten(1, (-1, group_size))  # (rows, groups, group_size)
    return (groups * scales.float().unsqueeze(-1)).flatten(1)
