"""A story-teller in one HTML file: the model, and all that runs it in a browser.

The page, its style and its scripts are the files in the folder storyteller/. They are put together
with the model's settings, its tokenizer and its weights, so that the file needs no other.
"""

import json
import math
import re
import zlib
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from html import escape
from pathlib import Path

import safetensors.torch

from slm.checkpoint.loading import load_model
from slm.export.html_tokenizer import describe_tokenizer
from slm.model.size import parameter_count
from slm.model.transformer import Transformer
from slm.quantization.matrix import quantize
from slm.settings import ModelConfig, SamplingConfig
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.files import expand_home, model_name, write
from slm.utils.printing import say
from slm.utils.settings_checks import check_number
from slm.utils.write_errors import explain_write_errors

PAGE_FOLDER = Path(__file__).parent / "storyteller"
MAX_MEGABYTES = 5.0  # what a mail or a messenger takes without complaint
BASE64_EXPANSION = 4 / 3
GROUP_SIZE = 32  # weights that share a scale in 4 bits


def export_html(
    folder: str | Path,
    file: str | Path,
    *,
    title: str = "A story-teller",
    max_megabytes: float = MAX_MEGABYTES,
) -> Path:
    """Write a saved model as one HTML file that writes stories in any browser; return its path.

    The file needs no network and no other file: a double click opens it. `title` stands at its top.
    The weights are in 8 bits where the file then has at most `max_megabytes`, else in 4 (see
    `slm.quantize`); a line says which. A model that is quantized already stays as it is.

    Raises ValueError for a model that is too large, and for one that the page's scripts cannot
    compute: rotary positions that are scaled, or a tokenizer of another kind than byte-level BPE.
    Raises OSError, in a sentence, where the file cannot be written.
    """
    check_number("max_megabytes", max_megabytes)
    model, tokenizer = load_model(folder)
    _check_computable(model.config)
    _check_size(model.config, max_megabytes)
    name = model_name(folder)
    file = expand_home(file)
    sizes = {}  # megabytes of the page for each number of bits that was tried
    with explain_write_errors(file):
        for quantized in _quantized(model):
            page = _assemble(quantized, tokenizer, name, title)
            megabytes = len(page) / 1e6
            sizes[quantized.quantization["bits"]] = megabytes
            if megabytes <= max_megabytes:
                write(file, page)
                say(_summary(file, sizes))
                return file
    raise _too_large(megabytes, max_megabytes)


def _check_computable(config: ModelConfig) -> None:
    if config.rope_scaling is not None:
        raise ValueError(
            "This model's rotary positions are scaled (rope_scaling), which the page does not "
            "support: use export_gguf or export_onnx."
        )


def _check_size(config: ModelConfig, max_megabytes: float) -> None:
    """Refuse a model far too large at once: to quantize it would take much memory, for nothing."""
    tables = 1 if config.tie_embeddings else 2
    in_8_bits = tables * config.vocab_size * config.d_model
    in_4_bits = parameter_count(config) - in_8_bits
    weight_bytes = in_8_bits + in_4_bits * (1 / 2 + 2 / GROUP_SIZE)  # and a scale for each group
    megabytes = weight_bytes * BASE64_EXPANSION / 1e6
    if megabytes > 2 * max_megabytes:
        raise _too_large(megabytes, max_megabytes)


def _too_large(megabytes: float, max_megabytes: float) -> ValueError:
    return ValueError(
        f"The page would be {megabytes:.1f} MB, above the limit of {max_megabytes:g} MB: "
        f"export a smaller model, or set max_megabytes to {math.ceil(megabytes)}."
    )


def _quantized(model: Transformer) -> Iterator[Transformer]:
    """The model in 8 bits, then in 4; one that is quantized already, as it is."""
    if hasattr(model, "quantization"):
        yield model
        return
    yield quantize(model, 8)
    group_size = math.gcd(GROUP_SIZE, model.config.d_model, model.config.d_ff)
    if group_size > 1:  # two codes of 4 bits share a byte
        yield quantize(model, 4, group_size)


def _summary(file: Path, sizes: dict[int, float]) -> str:
    """How large the file is, and why its weights have as many bits as they have."""
    bits = list(sizes)[-1]
    summary = f"{file} has {sizes[bits]:.1f} MB, with weights in {bits} bits"
    if len(sizes) > 1:
        summary += f" (in 8 bits it would have {sizes[8]:.1f} MB)"
    return summary + "."


def _assemble(model: Transformer, tokenizer: Tokenizer, name: str, title: str) -> bytes:
    """The whole page: index.html with everything else put into its places."""
    tokenizer_json = _script_json(describe_tokenizer(tokenizer))
    weights = _packed_weights(model)
    # Under this name a browser stores the stories: their ids mean nothing to another model.
    fingerprint = sha256((tokenizer_json + weights).encode("utf-8", "replace")).hexdigest()[:16]
    settings = _settings(model, name) | {"fingerprint": fingerprint}
    contents = {
        "title": escape(title),
        "settings": _script_json(settings),
        "tokenizer": tokenizer_json,
        "weights": weights,
    }

    def content(placeholder: re.Match) -> str:
        name = placeholder[1]
        return contents[name] if name in contents else _page_file(name)

    # In one pass: text that is inserted is never searched for placeholders.
    page = re.sub(r"\{\{([\w.]+)\}\}", content, _page_file("index.html"))
    return (page + "\n").encode("utf-8", "replace")


def _page_file(name: str) -> str:
    return (PAGE_FOLDER / name).read_text(encoding="utf-8").strip()


def _settings(model: Transformer, name: str) -> dict:
    config = asdict(model.config) | {"head_dim": model.config.head_dim}
    sampling = SamplingConfig()
    return {
        "name": name,
        "parameters": parameter_count(model.config),
        "bits": model.quantization["bits"],
        "config": config,
        "sampling": {
            "temperature": sampling.temperature,
            "min_p": sampling.min_p,
            "max_new_tokens": sampling.max_new_tokens,
        },
    }


def _script_json(content: dict) -> str:
    """JSON that can stand within a script element: no "<" may begin a tag there."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _packed_weights(model: Transformer) -> str:
    """The model's safetensors file, compressed and in base64."""
    return b64encode(zlib.compress(safetensors.torch.save(model.state_dict()), 9)).decode()
