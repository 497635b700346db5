"""Models of the Hugging Face hub, downloaded once and cached."""

from fnmatch import fnmatch
from pathlib import Path

WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors")  # whole, or in shards
FILES = ("*.json", *WEIGHTS)
MAX_BYTES = 2_000_000_000  # of weights: a larger model would not be small


def fetch_model(name: str) -> Path:
    """The folder of a model of the hub, "owner/name", which is downloaded once.

    Raises ConnectionError where the hub cannot be reached, FileNotFoundError where it has no such
    model, and ValueError for one that is too large.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=FILES, local_files_only=True))
    except HFValidationError:
        raise FileNotFoundError(f"There is no folder {name}, and no model has that name.") from None
    except LocalEntryNotFoundError:
        pass  # not downloaded yet
    try:
        _check_size(name)
        return Path(snapshot_download(name, allow_patterns=FILES))
    except ValueError:  # of _check_size, and no problem of the network
        raise
    except HfHubHTTPError as error:
        reason = "there is none, or it is private: check its name, or log in with `hf auth login`"
        raise FileNotFoundError(f"No model {name} on the hub ({reason}): {error}") from None
    except Exception as error:  # of the network's own libraries, which change with the version
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = "check the name and the connection"
        raise ConnectionError(
            f"There is no folder {name}, and the hub cannot be reached for a model of that name: "
            f"{hint} ({reason})."
        ) from None


def _check_size(name: str) -> None:
    """Raise ValueError for a model whose weights are too large or in another kind of file."""
    from huggingface_hub import HfApi

    files = HfApi().model_info(name, files_metadata=True).siblings
    sizes = [file.size or 0 for file in files if _is_weights(file.rfilename)]
    if not sizes:
        raise ValueError(f"{name} has no safetensors: models in other kinds of files do not load.")
    if sum(sizes) > MAX_BYTES:
        limit = f"at most {MAX_BYTES / 1e9:.0f} are loaded"
        raise ValueError(f"{name} has {sum(sizes) / 1e9:.1f} GB of weights: {limit}.")


def _is_weights(file_name: str) -> bool:
    return any(fnmatch(file_name, pattern) for pattern in WEIGHTS)
