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


class BarOutput:
    """Standard output for a progress bar, which goes on where nothing can be written to it."""

    def __getattr__(self, name: str) -> object:
        return getattr(sys.stdout, name)  # encoding, fileno: how a bar can be drawn

    def write(self, text: str) -> None:
        """Write the text, unless standard output is closed, full or gone."""
        with suppress(AttributeError, OSError, ValueError):
            sys.stdout.write(text)

    def flush(self) -> None:
        """Flush what was written, unless standard output is closed, full or gone."""
        with suppress(AttributeError, OSError, ValueError):
            sys.stdout.flush()


def printable(text: str, stream: TextIO | None = None) -> str:
    """The text with "?" for what the stream's encoding does not have, as cp1252 on Windows."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)
