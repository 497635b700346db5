"""Settings are small frozen dataclasses; a wrong one is refused in a sentence that names it."""

import math
from dataclasses import fields
from difflib import get_close_matches
from typing import get_args

TINY, HUGE = math.ulp(0.0), 2**63 - 1  # the least above 0; larger ones break what they are given to


def check(config, *names: str, whole: bool = False, low: float = TINY, high: float = HUGE) -> None:
    """Raise ValueError where a named field is not a number from `low`, or above 0, to `high`; with
    `whole`, a whole number. None passes where the field's type says so."""
    kind, types = ("a whole number", int) if whole else ("a number", (int, float))
    limit = "above 0" if low == TINY else f"from {low} up"
    limit = f"from {low} to {high}" if high < HUGE else limit
    for name in names:
        value = getattr(config, name)
        fits = isinstance(value, types) and not isinstance(value, bool) and low <= value <= high
        optional = type(None) in get_args(type(config).__dataclass_fields__[name].type)
        if not fits and not (value is None and optional):
            raise ValueError(f"{name} must be {kind} {limit}, not {value!r}.")


def check_choice(name: str, value: object, *choices: object) -> None:
    """Raise ValueError where `value` is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}.")


def split_settings(settings: dict, *classes: type) -> list[dict]:
    """Share settings out among the dataclasses that have such fields; ValueError if none has."""
    names = [{item.name for item in fields(cls)} for cls in classes]
    known = sorted(set().union(*names))
    for name in settings:
        if name not in known:
            close = get_close_matches(name, known, 1)
            mend = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."
            raise ValueError(f"There is no setting {name!r}: {mend}")
    return [{name: settings[name] for name in settings if name in own} for own in names]
