"""Memory: how large a micro-batch may be, and freed memory that the process keeps."""

import ctypes

import torch

from slm.settings import ModelConfig, TrainConfig

# Options of mallopt(3), in glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for the next step's tensors.

    Otherwise glibc gives it back to Linux, which clears every page before it is used again: a
    fifth of a training step. Other systems have no such setting, and nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS and musl, no C library, Windows
        return
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 2**28)
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_ARENA_MAX, 1)


def rows_at_once(device: str, config: TrainConfig, model: ModelConfig, world_size: int = 1) -> int:
    """The rows of a micro-batch: the largest part of `batch_size` that fits into memory.

    On a GPU, 80 % of the free memory of `world_size` such GPUs must hold what is kept of the rows
    for the backward pass. The number divides `batch_size`, and `world_size` divides it. On other
    devices all rows are taken at once.
    """
    if device != "cuda":
        return config.batch_size
    room = 0.8 * torch.cuda.mem_get_info()[0]  # bytes
    rows_that_fit = max(room // bytes_per_row(config, model), 1) * world_size
    for rows in range(config.batch_size, 0, -1):
        divides = config.batch_size % rows == 0 and rows % world_size == 0
        if divides and rows <= rows_that_fit:
            return rows
    return config.batch_size


def bytes_per_row(config: TrainConfig, model: ModelConfig) -> int:
    """What a row of `context_length` tokens takes until its backward pass, in bytes; measured."""
    per_block = 40 * model.d_model + 10 * model.d_ff
    # A teacher's logits were not measured: they are taken to be as large as the student's.
    per_logit = 24 if config.teachers else 12
    per_token = model.n_layers * per_block + per_logit * model.vocab_size
    return per_token * model.context_length
