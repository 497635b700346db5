"""ONNX: one file for a browser or a phone."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slm.checkpoint.loading import load_model
from slm.export.requirements import not_quantized
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
    """Write a saved model as one ONNX file, which a browser or a phone can run; give its path.
    It takes "ids" `(B, T)` and "past", what is known of the S tokens before them, `(L, B, 2 G, S,
    D)`, with S = 0 at first; it gives "logits" `(B, T, V)` and "present", the next call's past.
    With `int8`, the matrices are in 8 bits. The tokenizer is the folder's `tokenizer.json`. Raises
    ImportError where onnx, onnxscript or (for `int8`) onnxruntime are not installed."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        mend = "pip install onnx onnxscript onnxruntime"
        raise ImportError(f"This needs the library onnx: {mend}") from None
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError("This needs the library onnxscript: pip install onnxscript") from None
    model, _ = load_model(folder)
    config, file = not_quantized(model).config, Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.with_name(f".{file.name}.part")
    ids = torch.zeros(2, 3, dtype=torch.int64)
    past = torch.zeros(config.n_layers, 2, 2 * config.n_kv_heads, 4, config.head_dim)
    dims = {name: torch.export.Dim(name) for name in ("rows", "new", "read")}
    shapes = {0: dims["rows"], 1: dims["new"]}, {1: dims["rows"], 3: dims["read"]}
    try:
        torch.onnx.export(
            _WithCache(model).eval(),
            (ids, past),
            whole,
            input_names=["ids", "past"],
            output_names=["logits", "present"],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        if int8:
            try:
                from onnxruntime.quantization import quantize_dynamic
            except ImportError:
                mend = "pip install onnxruntime"
                raise ImportError(f"This needs the library onnxruntime: {mend}") from None
            quantize_dynamic(whole, file)
        else:
            whole.replace(file)
    finally:
        whole.unlink(missing_ok=True)
    return file
