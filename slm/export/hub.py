"""Upload to the Hugging Face hub."""

from pathlib import Path

from slm.checkpoint.loading import find_model
from slm.export.model_card import model_card

PRIVATE_FILES = ["training.safetensors"]  # the state of a run: nobody else can use it


def push_to_hub(folder: str | Path, name: str, *, private: bool = False) -> str:
    """Upload a saved model to the Hugging Face hub as `name`, "you/your-model"; return its address.

    Log in first: `hf auth login`. A model card is added where there is none. The state of training
    is not uploaded.

    Raises
    FileNotFoundError without a model, and ConnectionError where the hub cannot be reached or
    refuses it, as without a login.
    """
    from huggingface_hub import HfApi

    folder = find_model(folder)
    if not (folder / "README.md").exists():
        title = name.rpartition("/")[2]
        model_card(folder, title=title)
    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=name, ignore_patterns=PRIVATE_FILES)
    except Exception as error:  # of the network's own libraries, which change with the version
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = "log in with `hf auth login`, and check the name and the connection"
        raise ConnectionError(f"{name} cannot be uploaded: {hint} ({reason}).") from None
    return str(address)
