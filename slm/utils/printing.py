"""Printing that never ends the work it reports on."""

import sys
from contextlib import suppress
from functools import cache
from typing import TextIO


def say(text: str) -> None:
    """Print a line; if standard output is closed, full or gone, do without."""
    with suppress(OSError, ValueError):
        print(printable(text), flush=True)


@cache
def say_once(text: str) -> None:
    """Print a line unless this process has printed it before."""
    say(text)


def can_print() -> bool:
    """Whether standard output is there and open."""
    try:
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError):  # none, as under pythonw; gone; closed
        return False
    return True


def printable(text: str, stream: TextIO | None = None) -> str:
    """The text with "?" for what the stream's encoding does not have, as cp1252 on Windows."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)
