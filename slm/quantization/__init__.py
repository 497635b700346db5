"""Weights in 8 or 4 bits."""

from slm.quantization.matrix import QuantizedMatrix, quantize
from slm.quantization.rounding import pack_nibbles, quantize_matrix, unpack_nibbles

__all__ = [
    "QuantizedMatrix",
    "pack_nibbles",
    "quantize",
    "quantize_matrix",
    "unpack_nibbles",
]
