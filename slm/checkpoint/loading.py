"""Loading a model from a folder: one of this package's, or any small Llama."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slm.checkpoint.hub import fetch_model
from slm.checkpoint.llama_format import from_llama_config
from slm.checkpoint.weights import StoredWeights, existing_file, load_tensors, weight_files
from slm.hardware.memory import explain_out_of_memory
from slm.model.size import check_memory
from slm.model.transformer import Transformer
from slm.quantization.matrix import quantize
from slm.settings import ModelConfig
from slm.tokenizer.byte_pair import END_OF_TEXT, Tokenizer, load_tokenizer
from slm.tokenizer.pretrained import PretrainedTokenizer
from slm.utils.files import ASSETS, expand_home

MAX_JSON_BYTES = 10_000_000  # of config.json: a real one has a thousand


def load_model(folder_or_name: str | Path) -> tuple[Transformer, Tokenizer]:
    """Load a model, in float32 on the CPU, and its tokenizer.

    `folder_or_name` is a folder, the name of a bundled model, or "owner/name" of any small Llama on
    the Hugging Face hub. A model that loads computes what transformers computes; any other is
    refused.

    Raises FileNotFoundError where there is no model, ConnectionError where the hub cannot be
    reached, and ValueError, with the reason, for a model that is damaged, of another kind, or
    larger than memory.
    """
    folder = find_model(folder_or_name)
    with _explain_damage(folder):
        hf_config = read_json(folder / "config.json")
        config = from_llama_config(hf_config)
        quantization = _quantization(hf_config)
        stored = StoredWeights(weight_files(folder))
        stored.check(config, quantization)
    check_memory(config)  # a model that is too large is not damaged
    advice = "close other programs, or take a smaller model"
    with explain_out_of_memory(advice), _explain_damage(folder):
        model = _build(config, quantization)
        load_tensors(model, stored.load())
        tokenizer = load_saved_tokenizer(folder, hf_config)
        model.check_vocabulary(tokenizer.vocab_size)
    # peft stores this in a LoRA adapter, as the name of the model that it belongs to.
    model.name_or_path = str(folder_or_name if _is_hub_name(folder_or_name) else folder.resolve())
    return model.eval(), tokenizer


@contextmanager
def _explain_damage(folder: Path) -> Iterator[None]:
    """Let a ValueError say which model is damaged, in one sentence."""
    try:
        yield
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"The model in {folder} is damaged or of another kind: {reason}") from None


def find_model(folder_or_name: str | Path) -> Path:
    """The folder of a model: itself, the bundled model of that name, or one fetched from the hub.

    Raises FileNotFoundError where it holds no config.json, ValueError for the home folder of an
    unknown user, and what `fetch_model` raises.
    """
    folder = expand_home(folder_or_name)
    try:
        is_there = folder.exists()
    except OSError as error:  # as for a name that is too long
        raise FileNotFoundError(f"There is no model at {folder}: {error.strerror}.") from None
    if not is_there and (ASSETS / folder / "config.json").exists():
        folder = ASSETS / folder
    elif _is_hub_name(folder):
        folder = fetch_model(folder.as_posix())
    existing_file(folder / "config.json")
    return folder


def _is_hub_name(name: str | Path) -> bool:
    """Whether this looks like "owner/name" and not like a folder that is missing here."""
    path = expand_home(name)
    return len(path.parts) == 2 and not path.parent.exists()


def read_json(path: Path) -> dict:
    """The content of a JSON file. Raises ValueError where it is not an object in UTF-8."""
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"{path.name} has {size / 1e6:,.0f} MB, which no such file has")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


def _quantization(hf_config: dict) -> dict | None:
    """Bits and group size of a quantized model; None where it is not quantized."""
    quantization = hf_config.get("quantization")
    if not quantization:
        return None
    known = isinstance(quantization, dict) and set(quantization) == {
        "model_type",
        "bits",
        "group_size",
    }
    if not known or quantization["model_type"] != "llama":
        raise ValueError(f"its quantization cannot be understood: {quantization!r}")
    bits, group_size = quantization["bits"], quantization["group_size"]
    if type(bits) is not int or bits not in (4, 8):
        raise ValueError(f"it is quantized to {bits!r} bits, not to 8 or 4")
    if group_size is not None and (type(group_size) is not int or group_size < 1):
        raise ValueError(f"its group_size is {group_size!r}, which is no number of columns")
    return quantization


def _build(config: ModelConfig, quantization: dict | None) -> Transformer:
    """A model of this shape, its weights not loaded yet."""
    model = Transformer(config)
    if quantization is None:
        return model
    return quantize(model, quantization["bits"], quantization["group_size"])


def load_saved_tokenizer(folder: Path, hf_config: dict) -> Tokenizer:
    """The tokenizer of a folder: this package's own kind, or any other."""
    # `to_llama_config` writes this prefix for the package's own tokenizers. Where another kind has
    # the same prefix, it adds the key slm_tokenizer.
    is_ours = hf_config.get("prefix") == END_OF_TEXT and "slm_tokenizer" not in hf_config
    return load_tokenizer(folder) if is_ours else PretrainedTokenizer(folder)
