"""ONNX: one file for a browser or a phone."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slm.checkpoint.loading import load_model
from slm.export.requirements import missing_library, require_unquantized
from slm.export.temporary_file import temporary_file
from slm.model.transformer import Transformer


class _WithCache(nn.Module):
    """A transformer as ONNX wants it: nothing but tensors go in and come out."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.inner, self.groups = model, model.config.n_heads // model.config.n_kv_heads

    def forward(self, ids: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Ids `(B, T)` and what is known of S tokens before them, `(L, B, 2 G, S, D)`, to logits
        `(B, T, V)` and what is known of all, `(L, B, 2 G, S + T, D)`."""
        decoder, present = self.inner.model, []
        places = past.shape[3] + torch.arange(ids.shape[1])  # (T,)
        cos, sin = decoder.tables[:, places]
        mask = torch.arange(past.shape[3] + ids.shape[1]) <= places.unsqueeze(1)  # (T, S + T)
        x = decoder.embed_tokens(ids)
        for layer, before in zip(decoder.layers, past.unbind(), strict=True):
            q, k, v = layer.self_attn.project(layer.input_layernorm(x), cos, sin)
            present.append(torch.cat((before, torch.cat((k, v), 1)), 2))  # (B, 2 G, S + T, D)
            k, v = (x.repeat_interleave(self.groups, 1) for x in present[-1].chunk(2, 1))
            y = F.scaled_dot_product_attention(q, k, v, mask)
            x = x + layer.self_attn.o_proj(y.transpose(1, 2).flatten(2))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        tied = self.inner.config.tie_embeddings
        table = decoder.embed_tokens if tied else self.inner.lm_head
        return F.linear(decoder.norm(x), table.weight), torch.stack(present)


def export_onnx(folder: str | Path, file: str | Path, *, int8: bool = False) -> Path:
    """Write a saved model as one ONNX file, which a browser or a phone can run; return its path.

    It takes "ids" `(B, T)` and "past", the keys and values of the S tokens before them, `(L, B, 2
    G, S, D)`, with S = 0 at first; it gives "logits" `(B, T, V)` and "present", the next call's
    past. With `int8`, the matrices are in 8 bits. The tokenizer is the folder's `tokenizer.json`.
    Raises ImportError where onnx, onnxscript or (for `int8`) onnxruntime are not installed, and
    ValueError for a quantized model."""
    _import_libraries(int8)
    model, _ = load_model(folder)
    require_unquantized(model)
    file = Path(file)
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
        _WithCache(model).eval(),
        (ids, past),
        file,
        input_names=["ids", "past"],
        output_names=["logits", "present"],
        dynamic_shapes=({0: rows, 1: new}, {1: rows, 3: read}),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
