"""Progress while training: the bar, and Ctrl-C held back until the step is finished."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

BAR = "{percentage:3.0f}%|{bar:24}| {elapsed} gone, {remaining} left{postfix}"


@contextmanager
def finishing_the_step() -> Iterator[list]:
    """Hold back Ctrl-C, or a notebook's stop button, so that no step is left half done: the list is
    empty until it comes. A second one interrupts at once."""
    asked = []

    def ask(*_: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, ask) if in_main_thread else None
    try:
        yield asked
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, before)
