"""Threads: fewer of them while other programs use the processor too.

PyTorch's threads (OpenMP) divide every operation among themselves and then wait for the slowest,
spinning. Beside another busy program one of them has to wait for its turn on a core, and all the
others wait for it, hundreds of times a step: training nearly stands still. With one thread less for
each core that others use, it keeps the share of its speed that the free cores are worth.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil
import torch

SECONDS_BETWEEN_CHECKS = 2.0
SMALL_ROWS = 4  # a decode step of so few rows is not faster with more threads ...
SMALL_WORK = 25_000_000  # ... if its rows times the model's weights are less than this
MARGIN = 0.3  # a core that is free for less than 1 - MARGIN of the time counts as taken


class FreeCores:
    """Measures how many cores this process could have: those it uses and those that idle."""

    def __init__(self):
        self._sample()

    def _sample(self) -> None:
        self._idle = _idle_seconds()
        self._own = time.process_time()
        self._time = time.monotonic()

    def __call__(self) -> float | None:
        """The mean number of free cores since the last call; None if no time has passed."""
        idle_before, own_before, time_before = self._idle, self._own, self._time
        self._sample()
        elapsed = self._time - time_before
        if elapsed <= 0:
            return None
        own_cores = (self._own - own_before) / elapsed
        idle_cores = (self._idle - idle_before) / elapsed
        return own_cores + idle_cores


def _idle_seconds() -> float:
    """How long the cores that this process may use have idled since the machine started."""
    cores = psutil.cpu_times(percpu=True)
    usable = range(len(cores))
    with suppress(AttributeError):  # not on macOS, and not on Windows: all cores
        usable = os.sched_getaffinity(0)
    return sum(cores[core].idle + getattr(cores[core], "iowait", 0.0) for core in usable)


class AdaptiveThreads:
    """Sets PyTorch's number of threads to the free cores, from 1 up to what it was at first.

    Call it after each training step; use it as a context manager, which sets the threads back.
    Where it changes them, sums are taken in another order: losses may differ in their last digits
    from those of an undisturbed run.
    """

    def __init__(
        self,
        free_cores: Callable[[], float | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.max_threads = torch.get_num_threads()
        self._free_cores = FreeCores() if free_cores is None else free_cores
        self._clock = clock
        self._checked = clock()

    def __enter__(self) -> "AdaptiveThreads":
        return self

    def __exit__(self, *exception: object) -> None:
        torch.set_num_threads(self.max_threads)

    def __call__(self, state: object = None) -> None:
        """Every few seconds, measure the free cores and set the threads to them.

        This is a callback of the training loop; its `state` makes no difference.
        """
        now = self._clock()
        if self.max_threads == 1 or now - self._checked < SECONDS_BETWEEN_CHECKS:
            return
        self._checked = now
        free = self._free_cores()
        if free is None:
            return
        threads = min(max(math.floor(free + MARGIN), 1), self.max_threads)
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)


@contextmanager
def threads_for_step(weights: int, rows: int) -> Iterator[None]:
    """One thread for a decode step that is small, of a model with so many weights for some rows.

    Measured: it takes as long as with several, which on an idle machine gain nothing from so little
    work, and beside another busy program wait for each other at every operation.
    """
    threads = torch.get_num_threads()
    is_small = rows <= SMALL_ROWS and weights * rows < SMALL_WORK
    if threads == 1 or not is_small:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
