"""What one sees and does while training: a progress bar, and Ctrl-C that finishes the step.

Nothing here counts steps: with TQDM_DISABLE=1 the bar shows nothing, and training is the same.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from slm.training.run_folder import TrainingState

BAR = "{percentage:3.0f}%|{bar:24}| {elapsed} gone, {remaining} left{postfix}"


class ProgressBar:
    """A bar from 0 to 1 on standard output; use it in a `with` block."""

    def __init__(self, progress: float = 0.0, *, visible: bool = True):
        self._progress = progress
        self._bar = tqdm(
            total=1.0,
            initial=progress,
            disable=not visible,
            file=sys.stdout,
            mininterval=1.0,  # seconds between two drawings
            bar_format=BAR,
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, progress: float, text: str = "") -> None:
        """Move the bar to `progress`, with a few words after it."""
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(progress - self._progress)
        self._progress = progress

    def show_state(self, state: TrainingState) -> None:
        """Show where a run is: a callback of the training loop."""
        step = state.history.steps[-1]
        speed = step.tokens / max(step.seconds, 1e-9)
        text = f"step {step.step:,}, loss {step.loss:.2f}, {speed:,.0f} tokens/s"
        self.show(state.progress, text)

    def write(self, text: str) -> None:
        """Print lines above the bar."""
        self._bar.write(text, file=sys.stdout)


class StopRequest:
    """Whether training was asked to stop after the step it is in."""

    requested: bool = False


@contextmanager
def stop_after_step() -> Iterator[StopRequest]:
    """Turn Ctrl-C, or a notebook's stop button, into a request to stop when the step is finished.

    A second one interrupts at once. Outside the main thread, where Python handles no signals,
    nothing changes.
    """
    stop = StopRequest()

    def handle(signal_number: int, frame: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def finishing_the_step() -> Iterator[list]:
    """The former `stop_after_step`, until fine-tuning uses that: a list, empty until Ctrl-C."""
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
