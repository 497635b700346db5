"""A folder becomes a model: one of ours, or any small Llama."""

import json
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from slm.checkpoint.hub import fetch_model
from slm.checkpoint.llama_format import from_llama_config
from slm.model.transformer import Transformer
from slm.quantization.matrix import quantize
from slm.settings import ModelConfig
from slm.tokenizer.byte_pair import END_OF_TEXT, Tokenizer, load_tokenizer
from slm.tokenizer.pretrained import PretrainedTokenizer
from slm.utils.files import ASSETS


def load_model(folder_or_name: str | Path) -> tuple[Transformer, Tokenizer]:
    """Load a model, in float32 on the CPU, and its tokenizer.

    `folder_or_name` is a folder, the name of a model in the package, or "owner/name" of any small
    Llama on the Hugging Face hub. Raises FileNotFoundError where there is no model, and ValueError,
    with the reason, for one that is damaged or of another kind."""
    folder = find_model(folder_or_name)
    try:
        llama = _read_json(folder / "config.json")
        config = from_llama_config(llama)
        model = _build(config, llama)
        _load_weights(model, folder)
        tokenizer = _load_tokenizer(folder, llama)
        model.check_tokenizer(tokenizer)
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"The model in {folder} is damaged or of another kind: {reason}") from None
    return model.eval(), tokenizer


def find_model(folder_or_name: str | Path) -> Path:
    """The folder of a model: itself, the bundled model of that name, or one fetched from the hub.
    Raises FileNotFoundError where a file of it is missing, and what `fetch_model` raises."""
    folder = Path(folder_or_name).expanduser()
    if not folder.exists() and (ASSETS / folder / "config.json").exists():
        folder = ASSETS / folder
    elif len(folder.parts) == 2 and not folder.parent.exists():
        folder = fetch_model(folder.as_posix())
    for path in (folder / "config.json", folder / "model.safetensors"):
        if not path.is_file():
            mend = "name a folder that slm.save_model or slm.train has written"
            raise FileNotFoundError(f"There is no model at {path}: {mend}.")
    return folder


def _read_json(path: Path) -> dict:
    """The content of a JSON file. Raises ValueError where it is not an object in UTF-8."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


def _build(config: ModelConfig, llama: dict) -> Transformer:
    """A model of this shape, its weights not loaded yet."""
    model = Transformer(config)
    quantization = llama.get("quantization")
    if not quantization:
        return model
    try:
        return quantize(model, quantization["bits"], quantization["group_size"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"its quantization cannot be understood ({error!r})") from None


def _load_weights(model: Transformer, folder: Path) -> None:
    """Fill the model with the folder's tensors. Raises ValueError where they do not fit it."""
    try:
        weights = safetensors.torch.load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise ValueError(f"model.safetensors cannot be read ({error})") from None
    if model.config.tie_embeddings:
        weights.pop("lm_head.weight", None)  # some writers store the shared table twice
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # names or shapes differ
        raise ValueError(str(error)) from None


def _load_tokenizer(folder: Path, llama: dict) -> Tokenizer:
    """Our own kind of tokenizer, where that is what the folder holds, else any other."""
    if llama.get("prefix") == END_OF_TEXT:
        return load_tokenizer(folder)
    return PretrainedTokenizer(folder)
