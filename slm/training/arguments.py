"""The arguments of `slm.train`: checked, and made into what training works with."""

from pathlib import Path

from slm.settings import ModelConfig, TrainConfig, configure
from slm.stories.cleaning import Stories
from slm.tokenizer.byte_pair import Tokenizer, load_tokenizer

# What training needs a tokenizer to have; those of other models have it too.
TOKENIZER_PARTS = ("vocab_size", "bos_id", "eot_id", "dtype", "digest", "encode_many", "files")


def check_stories(stories: Stories) -> None:
    """Raise ValueError unless there are stories to train on and others to validate on."""
    if not getattr(stories, "train", None) or not getattr(stories, "validation", None):
        raise ValueError(
            "Give stories to train on and others to validate on, as slm.load_stories() does."
        )


def as_tokenizer(tokenizer: str | Path | Tokenizer) -> Tokenizer:
    """A tokenizer by its name or folder; or the object itself, also one of another model.

    Raises ValueError for any other object, and as `load_tokenizer` does.
    """
    if isinstance(tokenizer, str | Path):
        return load_tokenizer(tokenizer)
    missing = [name for name in TOKENIZER_PARTS if not hasattr(tokenizer, name)]
    if missing:
        kind = type(tokenizer).__name__
        raise ValueError(
            f"tokenizer must be a name, a folder, or what slm.load_tokenizer or slm.load_model "
            f"returned, not a {kind}."
        )
    return tokenizer


def configure_for(
    tokenizer: Tokenizer, preset: str, settings: dict
) -> tuple[ModelConfig, TrainConfig]:
    """The configurations of a preset with some `settings`, for this tokenizer's vocabulary."""
    settings = {"vocab_size": tokenizer.vocab_size, **settings}
    model_config, config = configure(preset, **settings)
    if model_config.vocab_size != tokenizer.vocab_size:
        raise ValueError(f"vocab_size is the tokenizer's, {tokenizer.vocab_size:,}: leave it out.")
    return model_config, config
