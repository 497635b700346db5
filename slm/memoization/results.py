"""Results of functions, saved in files."""

import inspect
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from slm.memoization.fingerprint import Fingerprints
from slm.utils.files import write
from slm.utils.printing import say

FOLDER = Path("runs") / "notebook"  # in the working folder
LONGEST_NAME = 50  # characters of a function's name in that of a file
KEY_LENGTH = 16  # hexadecimal digits of a fingerprint: 64 bits


def recall(function: Callable, /, *arguments, **named) -> object:
    """What `function(*arguments, **named)` returns; loaded, if it was computed before.

    The result is saved in `runs/notebook/`, in a JSON file named after all that it depends on: the
    function's code, its arguments, and the functions, classes and values of the same notebook (or
    module) that it uses, and that these use in turn. If one of them changes, it is computed again.

    What is imported counts by its name alone: after a change to a package, delete the folder. Nor
    do the contents of files, the clock and global random generators count.

    A result is returned as JSON gives it back, with lists for tuples and texts for the keys of
    dicts. Whatever else the function does, such as writing files, it does only when it is computed.

    Raises ValueError for a result that JSON cannot hold, and, before computing, for an argument or
    a global of which nobody can tell whether it has changed, such as an open file.
    """
    file = _file(function, arguments, named)
    try:
        return json.loads(file.read_bytes())["result"]
    except (OSError, ValueError, LookupError, TypeError):  # none yet, or a damaged one
        pass
    text = _as_json(function(*arguments, **named), function)
    try:
        write(file, text.encode())
    except OSError as error:
        say(f"The result of {_name(function)}() is not saved for next time ({error}).")
    return json.loads(text)["result"]


def _file(function: Callable, arguments: tuple, named: dict) -> Path:
    """The file of a call's result: its name has a fingerprint of all that the result depends on."""
    name = _name(function)
    call = inspect.signature(function).bind(*arguments, **named)
    call.apply_defaults()
    fingerprints = Fingerprints(modules={"__main__", _module(function)})
    parts = [fingerprints.of_named("what it was made with", function, f"{name}()")]
    for parameter, value in call.arguments.items():
        parts.append(parameter.encode())
        parts.append(fingerprints.of_named(f"its argument {parameter}", value, f"{name}()"))
    key = fingerprints.of(parts).hex()[:KEY_LENGTH]
    return FOLDER / f"{name}-{key}.json"


def _module(function: Callable) -> str | None:
    """The name of the module, or of the notebook, in which a function was written."""
    while isinstance(function, partial):
        function = function.func
    return getattr(inspect.unwrap(function), "__module__", None)


def _name(function: Callable) -> str:
    """A function's name, as far as it can stand in the name of a file."""
    name = getattr(function, "__name__", type(function).__name__)
    return re.sub(r"\W", "", name)[:LONGEST_NAME]


def _as_json(result: object, function: Callable) -> str:
    """A result as it stands in a file. Raises ValueError where JSON cannot hold it."""

    def refuse(part: object) -> None:
        raise TypeError(f"a {type(part).__name__}")

    try:
        text = json.dumps({"result": result}, default=refuse)
        if json.dumps(json.loads(text)) != text:
            raise ValueError("two keys of a dict become one text")
        return text
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"The result of {_name(function)}() cannot be saved as JSON ({error}): let it return "
            "numbers, texts, lists and dicts."
        ) from None
