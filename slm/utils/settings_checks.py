"""Settings are small frozen dataclasses; a wrong value is refused in a sentence that names it."""

import math
from collections.abc import Collection
from dataclasses import fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import get_args

ABOVE_ZERO = math.ulp(0.0)  # the smallest number above 0
LARGEST = 2**63 - 1  # what fits the integers of NumPy and PyTorch
LARGEST_PORT = 2**16 - 1  # of a server
LONGEST_SHOWN = 100  # characters of a wrong value in a message

# Our settings, each with the names that other libraries have for it. Where two of ours share one of
# these names, the first that is a setting of the function at hand is suggested.
OTHER_NAMES = {
    "learning_rate": ["lr", "max_lr"],
    "weight_decay": ["wd"],
    "final_learning_rate": ["min_lr"],
    "warmup": ["warmup_ratio", "warmup_steps"],
    "epochs": ["num_epochs", "num_train_epochs", "max_epochs"],
    "steps": [
        "epochs",
        "num_epochs",
        "num_train_epochs",
        "max_epochs",
        "max_steps",
        "max_iters",
        "iterations",
    ],
    "batch_size": ["bs", "batch", "per_device_train_batch_size"],
    "grad_accumulation": ["gradient_accumulation_steps"],
    "grad_clip": ["max_grad_norm"],
    "patience": ["early_stopping_patience"],
    "lora_rank": ["r", "rank"],
    "precision": ["dtype"],
    "context_length": ["block_size", "max_seq_len", "seq_len", "ctx_size", "n_ctx"],
    "d_model": ["n_embd", "hidden_size", "dim", "width"],
    "d_ff": ["intermediate_size", "ffn_dim"],
    "n_layers": ["layers", "n_layer", "num_layers", "num_hidden_layers", "depth"],
    "n_heads": ["heads", "n_head", "num_heads", "num_attention_heads"],
    "n_kv_heads": ["kv_heads", "num_kv_heads", "num_key_value_heads"],
    "max_new_tokens": ["max_tokens", "max_length", "n_predict", "num_predict"],
    "temperature": ["temp"],
    "repetition_penalty": ["repeat_penalty"],
    "n": ["num_return_sequences", "num_samples"],
    "seed": ["random_state", "random_seed"],
    # Options of the command line alone.
    "folder": ["output", "output_dir", "out", "out_dir", "save_dir"],
    "to": ["output", "out"],
    "n_stories": ["num_stories", "max_stories"],
    "stories": ["data", "dataset", "data_dir", "train_file", "file", "input"],
    "model": ["model_name", "model_path", "checkpoint", "ckpt"],
    "type": ["outtype", "dtype", "quantization"],
}


def check(
    config: object,
    *names: str,
    whole: bool = False,
    low: float = ABOVE_ZERO,
    high: float = LARGEST,
) -> None:
    """Raise ValueError if a field is not a number from `low`, by default above 0, to `high`.

    With `whole` it must be a whole number. None passes where the field's type admits it. NumPy's
    numbers become Python's.
    """
    for name in names:
        value = getattr(config, name)
        if value is None and _admits_none(config, name):
            continue
        number = check_number(name, value, whole=whole, low=low, high=high)
        if type(value) not in (int, float):
            object.__setattr__(config, name, number)


def check_number(
    name: str,
    value: object,
    *,
    whole: bool = False,
    low: float = ABOVE_ZERO,
    high: float = LARGEST,
) -> int | float:
    """The number itself, NumPy's as Python's; ValueError, naming it, where it is none such."""
    kind = Integral if whole else Real
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ValueError(
            f"{name} must be {_describe(whole, low, high, value)}, not {show_value(value)}."
        )
    return value.item() if hasattr(value, "item") else value


def show_value(value: object) -> str:
    """A wrong value as it stands in a message: in one line, cut off where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    text = " ".join(text.split())  # in one line
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _admits_none(config: object, name: str) -> bool:
    return type(None) in get_args(type(config).__dataclass_fields__[name].type)


def _describe(whole: bool, low: float, high: float, value: object) -> str:
    """What a number must be; the upper limit is only named where the number is above it."""
    kind = "a whole number" if whole else "a number"
    is_too_large = isinstance(value, Real) and value > high
    if high == LARGEST and not is_too_large:
        return f"{kind} above 0" if low == ABOVE_ZERO else f"{kind} from {low} up"
    largest = f"{high:,}" if high < LARGEST else f"{LARGEST:.0e}"
    if low == ABOVE_ZERO:
        return f"{kind} above 0 and at most {largest}"
    return f"{kind} from {low} to {largest}"


def check_choice(name: str, value: object, *choices: object) -> None:
    """Raise ValueError if `value` is not one of `choices`."""
    # Not `in`: an array would be compared element by element, and 1 is not True here.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        names = ", ".join(map(str, choices))
        raise ValueError(f"{name} must be one of {names}, not {show_value(value)}.")


def split_settings(settings: dict, *classes: type) -> list[dict]:
    """Share settings out among the dataclasses that have such fields; ValueError if none has."""
    names_of_each = [{field.name for field in fields(cls)} for cls in classes]
    known = sorted(set().union(*names_of_each))
    for name in settings:
        if name not in known:
            likely = likely_name(name, known)
            hint = f"did you mean {likely!r}?" if likely else f"there are {', '.join(known)}."
            raise ValueError(f"There is no setting {name!r}: {hint}")
    return [
        {name: value for name, value in settings.items() if name in names}
        for names in names_of_each
    ]


def likely_name(name: str, known: Collection[str]) -> str | None:
    """Of the known names the one that was probably meant, also by its name in other libraries."""
    for ours, others in OTHER_NAMES.items():
        if ours in known and name in others:
            return ours
    close = get_close_matches(name, known, 1)
    return close[0] if close else None
