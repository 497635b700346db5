"""Saving the files of a tokenizer, but not over one that a saved model needs."""

import json
from pathlib import Path

from slm.utils.files import expand_home, write_files
from slm.utils.write_errors import explain_write_errors


def save_tokenizer(folder: str | Path, files: dict[str, bytes]) -> None:
    """Write a tokenizer's `files`, by their names, into a folder.

    Raises ValueError where the folder holds a model with another tokenizer, and OSError, in a
    sentence, where it cannot be written.
    """
    folder = expand_home(folder)
    with explain_write_errors(folder):
        _check_no_other_tokenizer(folder, files["tokenizer.json"])
        write_files(folder, files)


def _check_no_other_tokenizer(folder: Path, content: bytes) -> None:
    """Raise ValueError if a model is in the folder whose tokens are not those of `content`.

    `content` is that of a tokenizer.json. Where the folder's own one is missing or damaged, nothing
    is lost by writing another.
    """
    if not (folder / "config.json").is_file():
        return
    try:
        held = _tokens((folder / "tokenizer.json").read_bytes())
    except (OSError, ValueError, AttributeError, LookupError, TypeError, RecursionError):
        return
    if held != _tokens(content):
        raise ValueError(
            f"{folder} holds a model with another tokenizer, and no other fits that model: name "
            "another folder."
        )


def _tokens(content: bytes) -> tuple:
    """The tokens and ids of a tokenizer.json, in its own form."""
    data = json.loads(content)
    added = [(token["content"], token["id"]) for token in data.get("added_tokens", [])]
    return data["model"]["vocab"], added
