"""A model with weights in 8 or 4 bits, on disk and in memory."""

import copy
import threading
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slm.model.transformer import Transformer
from slm.quantization.rounding import pack_nibbles, quantize_matrix, unpack_nibbles
from slm.utils.validation import check_choice

SCRATCH = 2**18  # floats, 1 MB: near the processor


PIECE = 2**15  # floats that PyTorch fills with one thread: waking others takes longer


_LOCAL = threading.local()


class QuantizedMatrix(nn.Module):
    """A matrix `(rows, columns)` of codes and scales, in place of a linear layer without a bias or
    of a table of embeddings. With `group_size` None each row is one group."""

    def __init__(self, weight: Tensor, bits: int, group_size: int | None, is_table: bool):
        super().__init__()
        self.bits, self.group_size, self.is_table = bits, group_size or weight.shape[1], is_table
        codes, scales = quantize_matrix(weight, bits, self.group_size)
        self.register_buffer("codes", codes if bits == 8 else pack_nibbles(codes))
        self.register_buffer("scales", scales.half())

    @property
    def weight(self) -> Tensor:
        """The matrix as it is computed with: float32 `(rows, columns)`, made anew at each call."""
        return self._dequantize(self.codes, self.scales)

    def _dequantize(self, codes: Tensor, scales: Tensor) -> Tensor:
        codes = codes if self.bits == 8 else unpack_nibbles(codes)
        groups = codes.float().unflatten(1, (-1, self.group_size))  # (rows, groups, group_size)
        return (groups * scales.float().unsqueeze(-1)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """A table: ids of any shape to their rows. Else `(..., columns)` to `(..., rows)`."""
        if not self.is_table:
            return F.linear(x, self.weight)
        rows = self._dequantize(self.codes[x.flatten()], self.scales[x.flatten()])
        return rows.view(*x.shape, -1)

    @staticmethod
    def product(parts: Sequence["QuantizedMatrix"], factor: Tensor | float):
        """See `product` in slm/generation/decoder.py. Where each row has one scale, that waits
        until the end."""
        first, codes = parts[0], torch.cat([part.codes for part in parts])
        scales = torch.cat([part.scales for part in parts])
        if first.bits == 4 or scales.shape[1] > 1:
            return lambda x: F.linear(x * factor, first._dequantize(codes, scales))
        factor, scales = torch.as_tensor(factor), scales.float().squeeze(1)
        blocks = [block.T.contiguous() for block in codes.split(max(1, SCRATCH // codes.shape[1]))]
        flat = [(block.shape, block.flatten().split(PIECE)) for block in blocks]

        def times(x: Tensor) -> Tensor:
            x, parts, (floats, places) = x * factor, [], _scratch()
            for shape, pieces in flat:  # (columns, some rows)
                for place, piece in zip(places, pieces):
                    place[: len(piece)].copy_(piece)
                parts.append(x @ floats[: shape.numel()].view(shape))
            return (torch.cat(parts, 1) if len(parts) > 1 else parts[0]).mul_(scales)

        return times


def _scratch() -> tuple[Tensor, tuple[Tensor, ...]]:
    """Memory in which codes become floats, used again and again: the whole, and the pieces of it
    that are filled one at a time. Each thread has its own."""
    if not hasattr(_LOCAL, "scratch"):
        floats = torch.empty(SCRATCH)
        _LOCAL.scratch = floats, floats.split(PIECE)
    return _LOCAL.scratch


def quantize(model: Transformer, bits: int = 8, group_size: int | None = None) -> Transformer:
    """A copy of a model with weights in 8 or 4 bits, to write and be evaluated as ever, and to be
    saved by `slm.save_model`; the norms stay as they are. `group_size` columns share a scale (with
    8 bits, by default, a whole row; with 4, 32 of them). Half a byte is too coarse for the table of
    embeddings, which all else depends on: it always has 8 bits. Raises ValueError for other bits,
    or a group size that does not divide the matrices' columns."""
    check_choice("bits", bits, 8, 4)
    group_size = group_size or (32 if bits == 4 else None)
    config, small = model.config, copy.deepcopy(model).cpu().eval()
    if group_size and (config.d_model % group_size or config.d_ff % group_size):
        widths = f"d_model ({config.d_model}) and d_ff ({config.d_ff})"
        raise ValueError(f"group_size must divide {widths}, not be {group_size!r}.")
    with torch.no_grad():
        for layer in small.model.layers:
            for part in (layer.self_attn, layer.mlp):
                for name, linear in part.named_children():
                    new = QuantizedMatrix(linear.weight, bits, group_size, is_table=False)
                    setattr(part, name, new)
        table = small.model.embed_tokens
        small.model.embed_tokens = QuantizedMatrix(table.weight, 8, None, is_table=True)
        if not config.tie_embeddings:
            small.lm_head = QuantizedMatrix(small.lm_head.weight, 8, None, is_table=False)
    small.quantization = {"model_type": "llama", "bits": bits, "group_size": group_size}
    return small.requires_grad_(False)
