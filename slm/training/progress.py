"""What one sees and does while training: a progress bar, and Ctrl-C that finishes the step.

Nothing here counts steps: with TQDM_DISABLE=1 the bar shows nothing, and training is the same. Nor
does a closed terminal or a full log file end the work.
"""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tqdm import tqdm

from slm.training.state import TrainingState
from slm.utils.printing import printable

BAR = "{percentage:3.0f}%|{bar:24}| {elapsed} gone, {remaining} left{postfix}"
SAME_SIGNAL_SECONDS = 1.0  # in which a second signal is the first one, passed on
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class ProgressBar:
    """A bar from 0 to 1 on standard output; use it in a `with` block."""

    def __init__(self, progress: float = 0.0, *, visible: bool = True):
        self._progress = progress
        self._visible = visible

    def __enter__(self) -> "ProgressBar":
        try:
            self._bar = self._make_bar(self._visible)
        except (OSError, ValueError):  # the output is closed, or full
            self._bar = self._make_bar(visible=False)
        return self

    def _make_bar(self, visible: bool) -> tqdm:
        # Left out where the bar is visible: an explicit False would overrule TQDM_DISABLE=1.
        hidden = {} if visible else {"disable": True}
        return tqdm(
            total=1.0,
            initial=self._progress,
            file=sys.stdout,
            mininterval=1.0,  # seconds between two drawings
            smoothing=0,  # estimate the time left from all that is done, evaluations included
            bar_format=BAR,
            **hidden,
        )

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it is: what is printed from now on stands below it."""
        with suppress(OSError, ValueError):
            self._bar.close()

    def show(self, progress: float, text: str = "") -> None:
        """Move the bar to `progress`, with a few words after it."""
        with suppress(OSError, ValueError):
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
        with suppress(OSError, ValueError):
            self._bar.write(printable(text), file=sys.stdout)


@dataclass
class StopRequest:
    """Whether training was asked to stop after the step it is in, and when, by the clock.

    Not a threading.Event: it takes a lock, and a second signal that comes while the first one holds
    the lock would wait for ever.
    """

    requested: bool = False
    seconds: float | None = None  # of the first signal; a callback may ask to stop, too


@contextmanager
def stop_after_step() -> Iterator[StopRequest]:
    """Turn Ctrl-C into a request to stop when the step is finished.

    So do a notebook's stop button, and the signals by which a computer that shuts down, a notebook
    server, a scheduler or a closed terminal ends a process. A second Ctrl-C interrupts at once, if
    it comes a second later: sooner, it is the first one again. Terminals and launchers such as
    torchrun both pass Ctrl-C on, and a shutdown sends SIGTERM and then SIGHUP. Outside the main
    thread, where Python handles no signals, nothing changes.
    """
    stop = StopRequest()

    def handle(signal_number: int, frame: object) -> None:
        stop.requested = True
        now = time.monotonic()
        if stop.seconds is None:
            stop.seconds = now
        elif signal_number == signal.SIGINT and now - stop.seconds > SAME_SIGNAL_SECONDS:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signals = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    # One that is ignored stays so: `nohup` ignores SIGHUP, so that training outlives the terminal.
    signals = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handle) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
