"""How the options of `train` become settings: what is not given is left to the preset."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial

from tyro.conf import Suppress

from slm.settings import BUDGETS, PRESETS, ModelConfig, TrainConfig


@dataclass(frozen=True)
class ModelOptions(ModelConfig):
    """The size and shape of the transformer."""

    vocab_size: Suppress[int | None] = None  # no option of its own: it is the tokenizer's

    def __post_init__(self):
        """Check nothing yet: `slm.train` does, with the preset's values filled in."""


@dataclass(frozen=True)
class TrainOptions(TrainConfig):
    """How to train, and for how long: by one of steps, tokens, minutes and schedule."""

    def __post_init__(self):
        """Check nothing yet: `slm.train` does, with the preset's values filled in."""


def with_defaults_of_preset(train: Callable, arguments: Sequence[str]) -> Callable:
    """The command `train`, whose options have the values of the preset that `arguments` name as
    their defaults. The preset's budget is not among them, since another may be given instead."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--preset", nargs="?")
    preset = reader.parse_known_args(arguments)[0].preset
    values = PRESETS.get(preset, {})  # an unknown preset is refused later, with all other options
    of_model = {field.name for field in fields(ModelConfig)}
    model = {name: value for name, value in values.items() if name in of_model}
    training = {name: value for name, value in values.items() if name not in {*of_model, *BUDGETS}}
    return partial(train, model=ModelOptions(**model), training=TrainOptions(**training))


def as_settings(model: ModelOptions, training: TrainOptions) -> dict[str, object]:
    """The options as settings for `slm.train`. None stands for what was not given."""
    values = asdict(model) | asdict(training)
    return {name: value for name, value in values.items() if value is not None}
