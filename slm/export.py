"""Take it anywhere: llama.cpp and its friends, ONNX, and the hub (optional)."""

import json
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slm.checkpoint import load_model
from slm.files import write
from slm.model import Transformer
from slm.settings import check_choice
from slm.tokenizer import END_OF_TEXT, Tokenizer

GGUF_TYPES = ("f32", "f16", "q8_0", "q4_0")
# The same draws as ours: only what min-p cuts off, nothing held down.
MODELFILE = """FROM ./{name}
TEMPLATE \"\"\"{{{{ .Prompt }}}}\"\"\"
PARAMETER stop "{end}"
PARAMETER num_ctx {length}
PARAMETER temperature 0.8
PARAMETER top_k 0
PARAMETER top_p 1.0
PARAMETER min_p 0.05
PARAMETER repeat_penalty 1.0
"""
CARD = """---
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [small-language-model, tinystories]
---

# {title}

A small language model that writes stories: a Llama of {parameters:,} parameters ({n_layers} \
layers of width {d_model}, {n_heads} heads), with a vocabulary of {vocab_size:,} tokens and a \
context of {context_length}. It was made with the package `slm`.

```python
import slm

model, tokenizer = slm.load_model("{folder}")
print(slm.generate(model, tokenizer, "Once upon a time"))
```

or `transformers.pipeline("text-generation", "{folder}")`. A prompt is put after an end-of-text \
token, as each story was in training.

## Training

{training}

## Intended use and limits

It is for learning how language models work. It knows what its stories told it and nothing else: \
it can not answer questions, may contradict itself within a few sentences, and has all the habits \
of its training text.
"""


def needed(name: str, package: str) -> ModuleType:
    """An optional library, or ImportError with the command that installs it."""
    try:
        return import_module(name)
    except ImportError:
        mend = f"pip install {package}"
        raise ImportError(f"This needs the library {name.partition('.')[0]}: {mend}") from None


def export_gguf(folder: str | Path, file: str | Path, type: str = "f16") -> Path:
    """Write a saved model as one GGUF file, for llama.cpp, Ollama and LM Studio, and beside it a
    Modelfile for Ollama; give the file's path. `type` is that of the matrices: "f32", "f16",
    "q8_0" (8 bits in groups of 32) or "q4_0" (4 bits). The end-of-text token is put before a
    prompt and ends a story, as here. Raises ImportError without the library gguf, ValueError for
    another type or a model of which the rows of the matrices cannot be grouped."""
    check_choice("type", type, *GGUF_TYPES)
    gguf = needed("gguf", "gguf")
    model, tokenizer = load_model(folder)
    config, file = _plain(model).config, Path(file)
    if type[0] == "q" and (config.d_model % 32 or config.d_ff % 32):
        widths = f"d_model ({config.d_model}) and d_ff ({config.d_ff})"
        raise ValueError(f"{type} wants multiples of 32 for {widths}: use 'f16'.")
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.part")
    writer = gguf.GGUFWriter(beside, "llama")
    kinds = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
    writer.add_file_type(gguf.LlamaFileType[kinds[type]])
    writer.add_name(file.stem)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.n_layers)
    for name, weight in model.state_dict().items():
        array = weight.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # Here the pairs that turn together are D / 2 rows apart, there they stand side by side.
            halves = array.reshape(-1, 2, config.head_dim // 2, config.d_model)
            array = halves.swapaxes(1, 2).reshape(array.shape)
        kind = gguf.GGMLQuantizationType[type.upper() if array.ndim == 2 else "F32"]
        array = gguf.quants.quantize(np.ascontiguousarray(array), kind)
        writer.add_tensor(names.get_name(name, (".weight",)), array, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    text = MODELFILE.format(name=file.name, end=END_OF_TEXT, length=config.context_length)
    write(file.with_name("Modelfile"), text.encode())
    return file


def _add_tokenizer(writer, tokenizer: Tokenizer) -> None:
    with TemporaryDirectory() as folder:
        tokenizer.save(folder)
        saved = json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    eot, size = tokenizer.eot_id, tokenizer.vocab_size
    tokens = {i: token for token, i in saved["vocab"].items()} | {eot: END_OF_TEXT}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # how text is split before merging
    writer.add_token_list([tokens[i] for i in range(size)])
    writer.add_token_types([3 if i == eot else 1 for i in range(size)])  # control, normal
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in saved["merges"]]
    writer.add_token_merges(pairs)
    writer.add_bos_token_id(eot)
    writer.add_eos_token_id(eot)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


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
    needed("onnx", "onnx onnxscript onnxruntime"), needed("onnxscript", "onnxscript")
    model, _ = load_model(folder)
    config, file = _plain(model).config, Path(file)
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
            quantize = needed("onnxruntime.quantization", "onnxruntime").quantize_dynamic
            quantize(whole, file)
        else:
            whole.replace(file)
    finally:
        whole.unlink(missing_ok=True)
    return file


def _plain(model: Transformer) -> Transformer:
    if hasattr(model, "quantization"):
        raise ValueError("A quantized model cannot be exported: export the one it was made from.")
    return model


def model_card(folder: str | Path, title: str | None = None, training: str | None = None) -> Path:
    """Write the README.md of a saved model, as the hub shows it: what it is, how it was trained
    (from the run's `history.json`, where there is one, or in words of your own), and its limits."""
    folder = Path(folder)
    model, _ = load_model(folder)
    if training is None and (folder / "history.json").exists():
        history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        last, scores = history["steps"][-1], history["evaluations"]
        training = f"{last['step']:,} steps over {last['tokens']:,} tokens, in "
        training += f"{last['seconds'] / 60:,.0f} minutes."
        if scores:
            bits, nats = scores[-1]["bits_per_byte"], scores[-1]["nats_per_token"]
            training += (
                f" On validation stories: {bits:.3f} bits per byte, {nats:.3f} nats a token."
            )
    facts = vars(model.config) | {"parameters": sum(x.numel() for x in model.parameters())}
    facts |= {"title": title or folder.resolve().name, "folder": folder.resolve().name}
    text = CARD.format(**facts, training=training or "Not recorded.")
    write(folder / "README.md", text.encode())
    return folder / "README.md"


def push_to_hub(folder: str | Path, name: str, *, private: bool = False) -> str:
    """Upload a saved model to the Hugging Face hub as `name`, "you/your-model", with a model card
    where it has none; give its address. Log in first: `hf auth login`. The run's state for going on
    with training stays here. Raises what huggingface_hub raises, as without a login."""
    api = needed("huggingface_hub", "huggingface_hub").HfApi()
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"There is no model at {folder}: name a folder that holds one.")
    if not (Path(folder) / "README.md").exists():
        model_card(folder, title=name.rpartition("/")[2])
    address = api.create_repo(name, private=private, exist_ok=True)
    api.upload_folder(folder_path=folder, repo_id=name, ignore_patterns=["training.safetensors"])
    return str(address)
