"""Products with quantized matrices for a few rows at a time, as decoding needs them.

Between two tokens every code has to become a float once more, so what counts is how few times the
numbers travel between memory and processor.
"""

import threading

import torch
import torch.nn.functional as F
from torch import Tensor

from slm.quantization.rounding import dequantize

BLOCK = 2**18  # floats that are made at a time: 1 MB, which stays near the processor
PIECE = 2**15  # floats that PyTorch converts with one thread: to wake others takes longer

_thread_memory = threading.local()


class DequantizedProduct:
    """`x * factor` times a matrix whose floats are computed again for each product."""

    def __init__(
        self, codes: Tensor, scales: Tensor, bits: int, group_size: int, factor: Tensor | float
    ):
        self.codes = codes
        self.scales = scales
        self.bits = bits
        self.group_size = group_size
        self.factor = factor

    def __call__(self, x: Tensor) -> Tensor:
        """`(B, columns)` to `(B, rows)`."""
        weight = dequantize(self.codes, self.scales, self.bits, self.group_size)
        return F.linear(x * self.factor, weight)


class BlockwiseProduct:
    """`x * factor` times a matrix of 8-bit codes where each row has one scale.

    The scale can then wait until after the product, so that codes become floats without any
    arithmetic; and the matrix is taken block by block, so that the floats stay near the
    processor.
    """

    def __init__(self, codes: Tensor, scales: Tensor, factor: Tensor | float):
        self.factor = torch.as_tensor(factor)
        self.scales = scales.float().squeeze(1)  # (rows,)
        columns = codes.shape[1]
        rows_per_block = max(1, BLOCK // columns)
        self.blocks = []  # of each block its shape, and its codes in pieces
        for rows in codes.split(rows_per_block):
            block = rows.T.contiguous()  # (columns, some rows)
            self.blocks.append((block.shape, block.flatten().split(PIECE)))

    def __call__(self, x: Tensor) -> Tensor:
        """`(B, columns)` to `(B, rows)`."""
        x = x * self.factor
        floats, float_pieces = _block_memory()
        products = []
        for shape, code_pieces in self.blocks:
            for place, codes in zip(float_pieces, code_pieces, strict=False):
                place[: len(codes)].copy_(codes)
            block = floats[: shape.numel()].view(shape)  # (columns, some rows)
            products.append(x @ block)  # (B, some rows)
        product = products[0] if len(products) == 1 else torch.cat(products, dim=1)
        return product.mul_(self.scales)


def _block_memory() -> tuple[Tensor, tuple[Tensor, ...]]:
    """Memory for the floats of one block, whole and in pieces, reused; each thread has its own."""
    if not hasattr(_thread_memory, "block"):
        # What is made in inference mode cannot be written to outside of it, and this outlives it.
        with torch.inference_mode(False):
            floats = torch.empty(BLOCK)
            _thread_memory.block = floats, floats.split(PIECE)
    return _thread_memory.block
