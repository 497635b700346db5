"""How an answer is judged: the same inputs to it and to the reference, and the results compared."""

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

TOLERANCE = 1e-4
MAX_LINES = 500_000  # that an answer may run through for one input: a second's worth
PRAISE = "right. It agrees with the reference on every input tried."
EMPTY = "it returns nothing yet. Write your lines, ending with `return`."


class EndlessLoopError(Exception):
    """A function runs on and on."""


@dataclass(frozen=True)
class Feedback:
    """Whether an answer is right, and one or two sentences for whoever wrote it."""

    right: bool
    message: str


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that many people give, and the sentence that helps them on."""

    function: Callable
    advice: str


@dataclass(frozen=True)
class Exercise:
    """A function to be written: the reference, inputs to try, and the usual mistakes."""

    reference: Callable
    inputs: tuple[tuple, ...]  # the arguments of each call
    mistakes: tuple[Mistake, ...]
    hint: str  # for wrong answers that are none of the usual mistakes

    def review(self, answer: object) -> Feedback:
        """Judge a function that is meant to do what the reference does."""
        if not callable(answer):
            kind = type(answer).__name__
            return Feedback(False, f"give the function itself, not what it returns ({kind}).")
        for arguments in self.inputs:
            try:
                got = call(answer, arguments)
            except NotImplementedError:
                return Feedback(False, EMPTY)
            except EndlessLoopError as error:
                return Feedback(False, f"with {show(arguments)} {error}")
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                message = f"with {show(arguments)} it stops with {reason}. {self.hint}"
                return Feedback(False, message)
            if got is None or got is Ellipsis:
                return Feedback(False, EMPTY)
            trouble = difference(got, self.reference(*arguments))
            if trouble:
                return Feedback(False, self._advice(answer, arguments, trouble))
        return Feedback(True, PRAISE)

    def _advice(self, answer: Callable, arguments: tuple, trouble: str) -> str:
        """What to say of a wrong answer: about a known mistake, or where it is wrong and a hint."""
        where = f"With {show(arguments)}, {trouble}."
        for mistake in self.mistakes:
            if self._behaves_like(answer, mistake.function):
                return f"not yet. {where} {mistake.advice}"
        return f"not yet. {where} {self.hint}"

    def _behaves_like(self, answer: Callable, other: Callable) -> bool:
        """Whether two functions give the same on every input."""
        for arguments in self.inputs:
            try:
                mine = call(answer, arguments)
                theirs = call(other, arguments)
            except Exception:
                return False
            if difference(mine, theirs):
                return False
        return True


def call(function: Callable, arguments: tuple) -> object:
    """The function's result; it gets copies, so that it cannot change the inputs.

    Raises EndlessLoopError once it has run through MAX_LINES lines.
    """
    arguments = copy.deepcopy(arguments)
    with line_limit(MAX_LINES):
        return function(*arguments)


@contextmanager
def line_limit(max_lines: int) -> Iterator[None]:
    """Raise EndlessLoopError after so many lines of Python, within functions called from here."""
    lines = 0

    def count(frame: FrameType, event: str, argument: object) -> Callable:
        nonlocal lines
        lines += event == "line"
        if lines > max_lines:
            raise EndlessLoopError("it does not stop: does every way through your loop go on?")
        return count

    tracer = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(tracer)


def difference(got: object, wanted: object) -> str:
    """Where two results differ, in words that do not give the wanted one away; "" if nowhere."""
    if isinstance(wanted, tuple):
        if not isinstance(got, tuple | list) or len(got) != len(wanted):
            return f"it should give {len(wanted)} things, separated by a comma"
        for number, (one, other) in enumerate(zip(got, wanted, strict=True), 1):
            trouble = difference(one, other)
            if trouble:
                return f"of the results, number {number}: {trouble}"
        return ""
    if isinstance(wanted, list) and wanted and isinstance(wanted[0], str):
        return list_difference(got, wanted)
    return number_difference(got, wanted)


def list_difference(got: object, wanted: list) -> str:
    """Where a list of texts or of whole numbers differs."""
    if not isinstance(got, list):
        return f"it should give a list, not {type(got).__name__}"
    if len(got) != len(wanted):
        amount = "many" if len(got) > len(wanted) else "few"
        return f"it gives {len(got)} pieces, {got}: too {amount}"
    for place, (one, other) in enumerate(zip(got, wanted, strict=True)):
        if one != other:
            return f"place {place} of {got} is wrong"
    return ""


def number_difference(got: object, wanted: object) -> str:
    """Where a number, or an array of them, differs."""
    try:
        mine = torch.as_tensor(got).detach().double()
    except (TypeError, ValueError, RuntimeError):
        return f"it should give numbers, not {type(got).__name__}"
    right = torch.as_tensor(wanted).detach().double()
    if mine.shape != right.shape:
        return f"the shape is {tuple(mine.shape)}, but should be {tuple(right.shape)}"
    close = torch.isclose(mine, right, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    if close.all():
        return ""
    if mine.dim() == 0:
        return f"{mine.item():.4g} is too {'large' if mine > right else 'small'}"
    place = (~close).nonzero()[0].tolist()
    value = mine[tuple(place)].item()
    return f"the first wrong number is at {place}: {value:.4g}"


def show(arguments: tuple) -> str:
    """Arguments as a learner would write them, cut where they are long."""
    parts = []
    for argument in arguments:
        if isinstance(argument, torch.Tensor) and argument.numel() > 6:
            parts.append(f"a tensor {tuple(argument.shape)}")
        elif isinstance(argument, torch.Tensor):
            parts.append(str([round(number, 3) for number in argument.flatten().tolist()]))
        else:
            text = repr(argument)
            parts.append(text if len(text) <= 60 else f"{text[:56]} ...")
    return "(" + ", ".join(parts) + ")"


def random_tensor(*shape: int, seed: int) -> torch.Tensor:
    """Numbers drawn from the normal distribution, the same each time."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)
