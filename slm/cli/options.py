"""The options of the commands: how those of `train` become settings, and what was meant by one that
is not there."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import partial
from typing import get_args, get_type_hints

from tyro.conf import Positional, Suppress

from slm.settings import (
    BUDGETS,
    PRESETS,
    FineTuneConfig,
    ModelConfig,
    SamplingConfig,
    TrainConfig,
)
from slm.utils.settings_checks import likely_name

POSITIONAL = get_args(Positional[str])[1]  # tyro's mark of a parameter that is given without a name


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


@dataclass(frozen=True)
class SamplingOptions(SamplingConfig):
    """How each next token is chosen, and when a story ends."""


@dataclass(frozen=True)
class FineTuneOptions(FineTuneConfig):
    """How a trained model goes on learning, from your own stories."""


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


def explain_unknown_option(command: Callable, arguments: Sequence[str]) -> str | None:
    """A sentence for the first option that the command has not, where another is likely meant.

    Other libraries have other names for the same settings. None where all are known, or where
    nothing is likely: tyro then says what is wrong.
    """
    named, positional = _parameters(command)
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        option = argument.partition("=")[0]
        name = option.removeprefix("--").replace("-", "_")
        if name in named or name.startswith("tyro_"):
            continue
        if name.removeprefix("no_") in named:  # of a switch, and nobody meant the other way
            continue
        likely = likely_name(name, named | positional)
        if likely in positional:
            return f"There is no option {option}: give the {likely} without a name before it."
        if likely is not None:
            return f"There is no option {option}: did you mean --{likely.replace('_', '-')}?"
    return None


def _parameters(command: Callable) -> tuple[set[str], set[str]]:
    """The names of a command's options, and of what it takes without a name."""
    named = {"help"}
    positional = set()
    for name, hint in get_type_hints(command, include_extras=True).items():
        marks = get_args(hint)[1:] if hasattr(hint, "__metadata__") else ()
        if POSITIONAL in marks:
            positional.add(name)
        elif is_dataclass(hint):
            named.update(field.name for field in fields(hint))
        else:
            named.update([name], *[_names_given_to(mark) for mark in marks])
    return named - {"return"}, positional


def _names_given_to(mark: object) -> list[str]:
    """The names that `tyro.conf.arg` gives to an option in place of its parameter's."""
    names = [getattr(mark, "name", None), *(getattr(mark, "aliases", None) or ())]
    return [name.removeprefix("--") for name in names if name]
