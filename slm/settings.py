"""Settings are small frozen dataclasses; a wrong one is refused in a sentence that names it."""

import math
from dataclasses import fields
from difflib import get_close_matches
from typing import Any


def check(
    config: Any, *names: str, whole: bool = False, low: float | None = None, high: float = math.inf
) -> None:
    """Raise ValueError where a named field is not a number that makes sense.

    It must be finite and from `low` to `high`, or above 0 where no `low` is given; with `whole`, a
    whole number. None passes where it is the field's default: such a field is not in use.
    """
    limit = "above 0" if low is None else f"from {low} up" if high == math.inf else f"from {low}"
    limit += f" to {high}" if high < math.inf else ""
    for name in names:
        value = getattr(config, name)
        fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        fits = fits and (value > 0 if low is None else low <= value) and value <= high
        fits = fits and value < 2**63  # beyond, whole numbers break what they are given to
        unused = value is None and type(config).__dataclass_fields__[name].default is None
        if not fits and not unused:
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"{name} must be {kind} {limit}, not {value!r}.")


def check_choice(name: str, value: Any, *choices: Any) -> None:
    """Raise ValueError where `value` is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}.")


def split_settings(settings: dict[str, Any], *classes: type) -> list[dict[str, Any]]:
    """Share settings out among the dataclasses that have such fields; ValueError if none has."""
    names = [{item.name for item in fields(cls)} for cls in classes]
    known = sorted(set().union(*names))
    for name in settings:
        if name not in known:
            close = get_close_matches(name, known, 1)
            mend = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."
            raise ValueError(f"There is no setting {name!r}: {mend}")
    return [{name: settings[name] for name in settings if name in own} for own in names]
