"""Saving a model as a folder, in the format of a Hugging Face Llama."""

import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from slm.checkpoint.llama_format import to_generation_config, to_llama_config
from slm.checkpoint.replacing import check_replaceable
from slm.checkpoint.weights import check_finite
from slm.model.transformer import Transformer
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.files import expand_home, write, write_files
from slm.utils.folder_marker import MODEL, check_kind, claim_folder
from slm.utils.printing import say
from slm.utils.settings_checks import show_value
from slm.utils.write_errors import explain_write_errors


def save_model(
    folder: str | Path,
    model: Transformer,
    tokenizer: Tokenizer,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Save a model and its tokenizer as a folder that transformers loads directly; return its path.

    Each file is written whole or not at all. With `dtype` torch.float16 the weights take half the
    space, and lose hardly any precision.

    A model that is there already is replaced, with a message, if it has the same shape, number
    format and tokenizer. Raises ValueError where model and tokenizer do not belong together, a
    weight is NaN or infinite, or the folder holds something else that would be lost, such as
    another model or a training run; and OSError, in a sentence, where the folder cannot be written.
    """
    folder = expand_home(folder)
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        given = show_value(dtype)
        raise ValueError(f"dtype must be torch.float32, torch.float16 or so, not {given}.")
    with explain_write_errors(folder):
        check_kind(folder, MODEL)
        is_replaced = check_replaceable(folder, model, tokenizer, dtype)
    save_model_as(MODEL, folder, model, tokenizer, dtype)
    if is_replaced:
        say(f"{folder} held a model already: this one has replaced it.")
    return folder


def save_model_as(
    kind: str,
    folder: str | Path,
    model: Transformer,
    tokenizer: Tokenizer,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Save a model in a folder of any of the kinds in slm/utils/folder_marker.py; return its path.

    A model that is there already is replaced, whatever it is: `check_replaceable` asks before.
    """
    model.check_vocabulary(tokenizer.vocab_size)
    folder = expand_home(folder)
    config = to_llama_config(model, tokenizer, dtype)
    generation = to_generation_config(model, tokenizer)
    tensors = _tensors(model, dtype)
    try:
        check_finite(tensors)
    except ValueError as error:
        raise ValueError(
            f"The model cannot be saved, as {error}: train it with a lower learning_rate."
        ) from None
    weights = safetensors.torch.save(tensors, {"format": "pt"})
    with explain_write_errors(folder):
        claim_folder(folder, kind)
        write_files(folder, tokenizer.files())  # not `save`: what is replaced may have another
        write(folder / "config.json", _to_json(config))
        write(folder / "generation_config.json", _to_json(generation))
        write(folder / "model.safetensors", weights)
    return folder


def _tensors(model: Transformer, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors by name, on the CPU, in `dtype`; those of a quantized model unchanged."""
    if hasattr(model, "quantization"):
        return model.state_dict()
    return {name: value.to("cpu", dtype) for name, value in model.state_dict().items()}


def _to_json(content: dict) -> bytes:
    return json.dumps(content, indent=2).encode()
