"""Guards against overwriting a saved model with a different one."""

from pathlib import Path

import torch

from slm.checkpoint.llama_format import LLAMA_NAMES, to_llama_config
from slm.checkpoint.loading import load_saved_tokenizer, read_json
from slm.model.transformer import Transformer
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.folder_marker import MARKER

# Entries of config.json by which one model is told from another, and what they are called here.
# Not dropout: it only matters while training.
SHAPE = {key: field for field, key in LLAMA_NAMES.items() if field != "dropout"}
COMPARED = {"model_type": "model_type", "quantization": "quantization", "dtype": "dtype", **SHAPE}


def check_replaceable(
    folder: Path, model: Transformer, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32
) -> bool:
    """Whether the folder holds a model that this one would replace, and may.

    It may if both have the same shape, number format and tokenizer, as where a cell of a notebook
    is run again, or if the saved one is damaged. Raises ValueError, with what differs, for any
    other model, and where config.json belongs to something else.
    """
    path = folder / "config.json"
    if not path.is_file():
        return False
    try:
        held = read_json(path)
    except ValueError:
        held = {}
    if "model_type" not in held:
        if (folder / MARKER).exists():  # one of ours, damaged
            return True
        raise ValueError(f"{path} does not belong to a model: name another folder.")
    ours = to_llama_config(model, tokenizer, dtype)
    difference = _difference(held, ours) or _tokenizer_difference(folder, held, tokenizer)
    if difference:
        raise ValueError(
            f"{folder} already holds another model ({difference}): name another folder, or delete "
            "that one."
        )
    return True


def _difference(held: dict, ours: dict) -> str | None:
    """The first entry that differs; entries missing from older files are ignored."""
    for key, name in COMPARED.items():
        if key in held and held[key] != ours.get(key):
            return f"{name} is {held[key]!r} there and {ours.get(key)!r} here"
    return None


def _tokenizer_difference(folder: Path, held: dict, tokenizer: Tokenizer) -> str | None:
    try:
        its_tokenizer = load_saved_tokenizer(folder, held)
    except (OSError, ValueError):  # missing or damaged: what is saved mends it
        return None
    return None if its_tokenizer.digest == tokenizer.digest else "its tokenizer differs"
