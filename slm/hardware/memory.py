"""Memory: how much of a step fits, and freed memory that is kept."""

import ctypes
from contextlib import suppress

import torch

from slm.settings import ModelConfig, TrainConfig


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees for the next step's tensors. Else glibc gives
    it back to Linux, which clears every page anew, a fifth of a step. Other systems: no change."""
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((-1, 2**31 - 1), (-2, 2**28), (-4, 0), (-8, 1)):
            mallopt(option, value)  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX


def rows_at_once(device: str, config: TrainConfig, model: ModelConfig, world_size: int = 1) -> int:
    """How many of a step's rows to read at once: the most that divide them and, each with what is
    kept of it for the way back, fit into 80 % of the free memory of `world_size` such GPUs; on
    other devices, all."""
    rows = config.batch_size
    if device != "cuda":
        return rows
    size = 40 * model.d_model + 10 * model.d_ff  # bytes by token, measured
    scores = 24 if config.teachers else 12  # a teacher's are not measured: taken as its student's
    size = (model.n_layers * size + scores * model.vocab_size) * model.context_length
    room = max(0.8 * torch.cuda.mem_get_info()[0] // size, 1) * world_size
    fitting = (n for n in range(rows, 0, -1) if rows % n == n % world_size == 0 and n <= room)
    return next(fitting, rows)
