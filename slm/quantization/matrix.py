"""A model with weights in 8 or 4 bits, on disk and in memory."""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slm.model.transformer import Transformer
from slm.quantization.fused import BlockwiseProduct, DequantizedProduct
from slm.quantization.rounding import dequantize, pack_nibbles, quantize_matrix
from slm.utils.settings_checks import check_choice, check_number


class QuantizedMatrix(nn.Module):
    """A matrix `(rows, columns)` of codes and scales.

    It replaces a linear layer without a bias, or a table of embeddings. With `group_size` None each
    row is one group.
    """

    def __init__(self, weight: Tensor, bits: int, group_size: int | None, is_table: bool):
        super().__init__()
        self.bits = bits
        self.group_size = group_size or weight.shape[1]
        self.is_table = is_table
        codes, scales = quantize_matrix(weight, bits, self.group_size)
        self.register_buffer("codes", codes if bits == 8 else pack_nibbles(codes))
        self.register_buffer("scales", scales.half())  # (rows, groups)

    @property
    def weight(self) -> Tensor:
        """The matrix as it is computed with: float32 `(rows, columns)`, computed at each call."""
        return dequantize(self.codes, self.scales, self.bits, self.group_size)

    def forward(self, x: Tensor) -> Tensor:
        """A table: ids of any shape to their rows. Else `(..., columns)` to `(..., rows)`."""
        if not self.is_table:
            return F.linear(x, self.weight)
        ids = x.flatten()
        rows = dequantize(self.codes[ids], self.scales[ids], self.bits, self.group_size)
        return rows.view(*x.shape, -1)

    @staticmethod
    def fuse(
        matrices: Sequence["QuantizedMatrix"], factor: Tensor | float = 1.0
    ) -> Callable[[Tensor], Tensor]:
        """Several matrices of one kind as one: a function from `x` `(B, columns)` to the products
        of `x * factor` with all of them, side by side `(B, rows of all)`.
        """
        first = matrices[0]
        codes = torch.cat([matrix.codes for matrix in matrices])
        scales = torch.cat([matrix.scales for matrix in matrices])
        one_scale_per_row = scales.shape[1] == 1
        if first.bits == 8 and one_scale_per_row:
            return BlockwiseProduct(codes, scales, factor)
        return DequantizedProduct(codes, scales, first.bits, first.group_size, factor)


def quantize(model: Transformer, bits: int = 8, group_size: int | None = None) -> Transformer:
    """Copy a model with its weights in 8 or 4 bits.

    The copy generates, is evaluated and is saved like any other model; its norms are not quantized.
    `group_size` columns share a scale (by default a whole row with 8 bits, 32 columns with 4). Four
    bits are too coarse for the table of embeddings, which everything else depends on: it always has
    8 bits.

    Raises ValueError for other bits, or a group size that does not divide the matrices' columns.
    """
    bits = check_number("bits", bits, whole=True)  # NumPy's numbers too
    check_choice("bits", bits, 8, 4)
    if group_size is not None:
        group_size = check_number("group_size", group_size, whole=True, low=1)
    elif bits == 4:
        group_size = 32
    config = model.config
    if group_size and (config.d_model % group_size or config.d_ff % group_size):
        widths = f"d_model ({config.d_model}) and d_ff ({config.d_ff})"
        raise ValueError(f"group_size must divide {widths}, not be {group_size:,}.")
    small = copy.deepcopy(model).cpu().eval()
    with torch.no_grad():
        for block in small.model.layers:
            _quantize_linear_layers(block.self_attn, bits, group_size)
            _quantize_linear_layers(block.mlp, bits, group_size)
        table = small.model.embed_tokens
        small.model.embed_tokens = QuantizedMatrix(table.weight, 8, None, is_table=True)
        if not config.tie_embeddings:
            small.lm_head = QuantizedMatrix(small.lm_head.weight, 8, None, is_table=False)
    small.quantization = {"model_type": "llama", "bits": bits, "group_size": group_size}
    return small.requires_grad_(False)


def _quantize_linear_layers(part: nn.Module, bits: int, group_size: int | None) -> None:
    """Replace each linear layer of an attention or an MLP."""
    for name, linear in part.named_children():
        setattr(part, name, QuantizedMatrix(linear.weight, bits, group_size, is_table=False))
