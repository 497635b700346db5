"""ONNX: one file for a browser or a phone."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slm.checkpoint.loading import load_model
from slm.export.requirements import missing_library, require_unquantized
from slm.export.temporary_file import temporary_file
from slm.model.transformer import Transformer
from slm.utils.files import expand_home


class _GrowingCache:
    """A key-value cache of tensors that grow: ONNX cannot write into a `KVCache`."""

    def __init__(self, past: Tensor):
        self.past = past  # (L, B, 2 G, S, D)
        self.present: list[Tensor] = []  # of each layer (B, 2 G, S + T, D)

    def extend(self, layer: int, new: Tensor) -> tuple[Tensor, Tensor]:
        """Add a layer's new keys and values `(B, 2 G, T, D)`; return all keys and all values."""
        keys_values = torch.cat((self.past[layer], new), dim=2)  # (B, 2 G, S + T, D)
        self.present.append(keys_values)
        keys, values = keys_values.chunk(2, dim=1)
        return keys, values


class _OnnxTransformer(nn.Module):
    """A transformer as ONNX wants it: nothing but tensors go in and come out."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.inner = model

    def forward(self, ids: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Ids `(B, T)` and the keys and values of S tokens before them, `(L, B, 2 G, S, D)`, to
        logits `(B, T, V)` and the keys and values of all, `(L, B, 2 G, S + T, D)`.
        """
        decoder = self.inner.model
        read = past.shape[3]  # S
        new = ids.shape[1]  # T
        positions = read + torch.arange(new)  # (T,)
        cos, sin = decoder.tables[:, positions]  # (T, D) each
        mask = torch.arange(read + new) <= positions.unsqueeze(1)  # (T, S + T)
        cache = _GrowingCache(past)
        x = decoder.embed_tokens(ids)  # (B, T, C)
        for layer in decoder.layers:
            x = layer(x, cos, sin, cache, mask)
        logits = F.linear(decoder.norm(x), self.inner.output_embeddings.weight)  # (B, T, V)
        return logits, torch.stack(cache.present)


def export_onnx(folder: str | Path, file: str | Path, *, int8: bool = False) -> Path:
    """Write a saved model as one ONNX file, which a browser or a phone can run; return its path.

    It takes "ids" `(B, T)` and "past", the keys and values of the S tokens before them, `(L, B, 2
    G, S, D)`, with S = 0 at first; it gives "logits" `(B, T, V)` and "present", the next call's
    past. With `int8`, the matrices are in 8 bits. The tokenizer is the folder's `tokenizer.json`.
    Raises ImportError where onnx, onnxscript or (for `int8`) onnxruntime are not installed, and
    ValueError for a quantized model.
    """
    _import_libraries(int8)
    model, _ = load_model(folder)
    require_unquantized(model)
    file = expand_home(file)
    with temporary_file(file) as partial:
        if int8:
            from onnxruntime.quantization import quantize_dynamic

            whole = partial.with_name("whole.onnx")
            _write_onnx(model, whole)
            quantize_dynamic(whole, partial)
        else:
            _write_onnx(model, partial)
    return file


def _import_libraries(int8: bool) -> None:
    """Raise ImportError, with what to install, where an optional library is missing."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise missing_library("onnx") from None
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise missing_library("onnxscript") from None
    if int8:
        try:
            import onnxruntime.quantization  # noqa: F401
        except ImportError:
            raise missing_library("onnxruntime") from None


def _write_onnx(model: Transformer, file: Path) -> None:
    """Trace the model with example inputs; rows, new tokens and past tokens may vary in number."""
    config = model.config
    ids = torch.zeros(2, 3, dtype=torch.int64)  # (B, T)
    past = torch.zeros(config.n_layers, 2, 2 * config.n_kv_heads, 4, config.head_dim)
    rows, new, read = (torch.export.Dim(name) for name in ("rows", "new", "read"))
    torch.onnx.export(
        _OnnxTransformer(model).eval(),
        (ids, past),
        file,
        input_names=["ids", "past"],
        output_names=["logits", "present"],
        dynamic_shapes=({0: rows, 1: new}, {1: rows, 3: read}),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
