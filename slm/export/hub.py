"""Upload to the Hugging Face hub."""

from pathlib import Path

from slm.export.model_card import model_card


def push_to_hub(folder: str | Path, name: str, *, private: bool = False) -> str:
    """Upload a saved model to the Hugging Face hub as `name`, "you/your-model", with a model card
    where it has none; give its address. Log in first: `hf auth login`. The run's state for going on
    with training stays here. Raises what huggingface_hub raises, as without a login."""
    from huggingface_hub import HfApi

    api = HfApi()
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"There is no model at {folder}: name a folder that holds one.")
    if not (Path(folder) / "README.md").exists():
        model_card(folder, title=name.rpartition("/")[2])
    address = api.create_repo(name, private=private, exist_ok=True)
    api.upload_folder(folder_path=folder, repo_id=name, ignore_patterns=["training.safetensors"])
    return str(address)
