"""Models of the Hugging Face hub, fetched once and kept."""

from pathlib import Path

FILES = ("*.json", "model.safetensors")


LARGEST = 2_000_000_000  # bytes of weights: more would not be small


def fetch_model(name: str) -> Path:
    """A folder with a model of the hub, "owner/name", fetched once and kept. Raises ConnectionError
    where the hub cannot be reached, FileNotFoundError where it has no such model, and ValueError
    for one that is too large."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=FILES, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        files = HfApi().model_info(name, files_metadata=True).siblings
        sizes = {file.rfilename: file.size or 0 for file in files}
        if "model.safetensors" not in sizes:
            raise ValueError(f"{name} has no model.safetensors: only models in one such file load.")
        if sizes["model.safetensors"] > LARGEST:
            size = f"{sizes['model.safetensors'] / 1e9:.1f} GB of weights"
            raise ValueError(f"{name} has {size}: at most {LARGEST / 1e9:.0f} are loaded.")
        return Path(snapshot_download(name, allow_patterns=FILES))
    except HfHubHTTPError as error:
        why = "there is none, or it is private: check its name, or log in with `hf auth login`"
        raise FileNotFoundError(f"No model {name} on the hub ({why}): {error}") from None
    except (OSError, LocalEntryNotFoundError) as error:
        mend = "check the connection, or name a folder"
        raise ConnectionError(f"The hub cannot be reached for {name}: {mend} ({error}).") from None
