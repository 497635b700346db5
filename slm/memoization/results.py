"""Results of functions, saved in files."""

import inspect
import json
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from slm.memoization.fingerprint import Fingerprints, NoFingerprint
from slm.utils.files import write
from slm.utils.printing import say

FOLDER = Path("runs") / "notebook"  # in the working folder
LONGEST_NAME = 50  # characters of a function's name in that of a file
KEY_LENGTH = 16  # hexadecimal digits of a fingerprint: 64 bits
PACKAGE = Path(__file__).parents[1]  # slm itself


def recall(function: Callable, /, *arguments, **named) -> object:
    """What `function(*arguments, **named)` returns; loaded, if it was computed before.

    The result is saved in `runs/notebook/`, in a JSON file named after all that it depends on: the
    function's code, its arguments, and the functions, classes and values of the same notebook (or
    module) that it uses, and that these use in turn. If one of them changes, it is computed again.

    The package slm counts with its Python files, as they are when the first result is asked for:
    after editing them, restart the kernel. Anything else that is imported counts by its name
    alone, your own .py files, too: after a change to one, or to a package, delete the folder. Nor
    count what files contain, the clock, the environment, the state of the global random
    generators, PyTorch's default number format and device. Comments make no difference; docstrings
    of functions do.

    A result is returned as JSON gives it back, with lists for tuples and texts for the keys of
    dicts. One that JSON cannot hold is returned as it is and not saved, which is said. Nor is one
    saved whose call changes what it depends on, such as a global random generator of the notebook.
    Whatever else the function does, such as writing files, it does only when it is computed.

    Raises ValueError, before computing, for an argument or a global of which nobody can tell
    whether it has changed, such as an open file, and for one of Python's own functions that does
    not say which arguments it takes.
    """
    inputs = _inputs(function, arguments, named)
    file = _file(function, inputs)
    try:
        return json.loads(file.read_bytes())["result"]
    except (OSError, ValueError, LookupError, TypeError):  # none yet, or a damaged one
        pass
    result = function(*arguments, **named)
    try:
        text = _as_json(result)
    except (TypeError, ValueError, RecursionError) as error:
        _say_not_saved(function, error)
        return result
    if _changed(function, inputs, file):
        _say_not_saved(function, f"the call changes {_name(function)}'s own inputs")
    else:
        try:
            write(file, text.encode())
        except OSError as error:
            _say_not_saved(function, error)
    return json.loads(text)["result"]


def _inputs(function: Callable, arguments: tuple, named: dict) -> dict[str, object]:
    """The arguments of a call by the names of the parameters, with the defaults."""
    hands_on = hasattr(function, "cache_info")  # what functools.cache makes; it has no signature
    try:
        signature = inspect.signature(function, follow_wrapped=hands_on)
    except ValueError:
        raise ValueError(
            f"{_name(function)}() does not say which arguments it takes: call it in a function of "
            "your own, and recall that."
        ) from None
    call = signature.bind(*arguments, **named)
    call.apply_defaults()
    return call.arguments


def _file(function: Callable, inputs: dict[str, object]) -> Path:
    """The file of a call's result: its name has a fingerprint of all that the result depends on."""
    name = _name(function)
    fingerprints = Fingerprints(modules={"__main__", _module(function)})
    parts = [
        _sources(PACKAGE),
        fingerprints.of_named("what it was made with", function, f"{name}()"),
    ]
    for parameter, value in inputs.items():
        parts.append(parameter.encode())
        parts.append(fingerprints.of_named(f"its argument {parameter}", value, f"{name}()"))
    key = fingerprints.of(parts).hex()[:KEY_LENGTH]
    return FOLDER / f"{name}-{key}.json"


@cache
def _sources(package: Path) -> bytes:
    """A fingerprint of a package's source files, as they are when a process first asks."""
    files = sorted(package.rglob("*.py"))
    contents = {file.relative_to(package).as_posix(): file.read_bytes() for file in files}
    return Fingerprints(modules=()).of(contents)


def _changed(function: Callable, inputs: dict[str, object], file: Path) -> bool:
    """Whether a call has changed what its result depends on, so that its file would be another."""
    try:
        return _file(function, inputs) != file
    except NoFingerprint:  # what could be compared before the call cannot be any more
        return True


def _module(function: Callable) -> str | None:
    """The name of the module, or of the notebook, in which a function was written."""
    while isinstance(function, partial):
        function = function.func
    return getattr(inspect.unwrap(function), "__module__", None)


def _name(function: Callable) -> str:
    """A function's name, as far as it can stand in the name of a file."""
    name = getattr(function, "__name__", type(function).__name__)
    return re.sub(r"\W", "", name)[:LONGEST_NAME]


def _as_json(result: object) -> str:
    """A result as it stands in a file. Where JSON cannot hold it, that is any of three errors."""
    text = json.dumps({"result": result})
    if json.dumps(json.loads(text)) != text:
        raise ValueError("two keys of a dict become one text")
    return text


def _say_not_saved(function: Callable, reason: object) -> None:
    say(f"The result of {_name(function)}() is not saved for next time ({reason}).")
