"""The loss curve that grows in a notebook while the model is trained."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from slm.plots.training import live


class LiveCurve:
    """A callback that draws the loss and the newest sample in place, as training goes on.

    Call it with the history after every step; it draws at most once in `every` seconds, so that
    training keeps nearly all of the time. `close` draws the last state. Outside a notebook it does
    nothing. `clock` returns seconds.
    """

    def __init__(
        self,
        baselines: Mapping[str, float] | None = None,
        title: str | None = None,
        every: float = 5.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember what to draw and how often."""
        self.baselines = baselines
        self.title = title
        self.every = every
        self.clock = clock
        self._handle: Any = None
        self._due = clock()

    def __call__(self, history: Any) -> None:
        """Draw `history`, if a drawing is due."""
        if self.clock() >= self._due:
            self.close(history)
            self._due = self.clock() + self.every

    def close(self, history: Any) -> None:
        """Draw `history` as it now is, whether or not a drawing is due."""
        if not _in_notebook():
            return
        from IPython.display import display

        figure = live(history, baselines=self.baselines, title=self.title)
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
