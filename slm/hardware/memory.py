"""Memory: what training takes, whether there is as much, and how large a micro-batch may be."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from slm.model.size import advise_size, parameter_count
from slm.settings import ModelConfig, TrainConfig
from slm.utils.memory import USABLE, available_memory

# Options of mallopt(3), in glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
M_ARENA_MAX = -8

BYTES_PER_WEIGHT = 16  # the weight, its gradient, and up to two numbers of the optimizer's
SIZES = ("context_length", "n_layers", "d_ff", "d_model")  # not vocab_size: it is the tokenizer's


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


def fixed_bytes(model: ModelConfig) -> int:
    """What training takes whatever the batch: weights and all that belongs to each of them."""
    rotary_tables = 2 * model.context_length * model.head_dim * 4
    return BYTES_PER_WEIGHT * parameter_count(model) + rotary_tables


def bytes_per_row(config: TrainConfig, model: ModelConfig, device: str) -> int:
    """What a row of `context_length` tokens takes until its backward pass, in bytes; measured."""
    per_block = 40 * model.d_model + 10 * model.d_ff
    per_logit = 12
    if device == "cpu":
        per_block *= 2
        per_logit = 20
    if config.teachers:  # not measured: a teacher's logits are taken to be as large as the model's
        per_logit *= 2
    per_token = model.n_layers * per_block + per_logit * model.vocab_size
    return per_token * model.context_length


def rows_at_once(device: str, config: TrainConfig, model: ModelConfig, world_size: int = 1) -> int:
    """The rows of a micro-batch: the largest part of `batch_size` that fits into memory.

    The number divides `batch_size`, and `world_size`, the number of processes that share it,
    divides the number. Raises ValueError, naming the largest setting that fits, if not even one
    row does.
    """
    available = available_memory(device)
    if available is None:
        return config.batch_size
    if device == "cpu":  # the processes on this machine share its memory
        available //= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if not _fits(config, model, device, available):
        raise ValueError(_too_large(config, model, device, available))

    room = USABLE * available - fixed_bytes(model)
    rows_that_fit = max(int(room // bytes_per_row(config, model, device)), 1) * world_size
    for rows in range(min(config.batch_size, rows_that_fit), 0, -1):
        if config.batch_size % rows == 0 and rows % world_size == 0:
            return rows
    return config.batch_size


def _fits(config: TrainConfig, model: ModelConfig, device: str, available: int) -> bool:
    return fixed_bytes(model) + bytes_per_row(config, model, device) <= available


def _too_large(config: TrainConfig, model: ModelConfig, device: str, available: int) -> str:
    """A sentence: what the settings need, what there is, and the largest setting that fits."""
    needed = fixed_bytes(model) + bytes_per_row(config, model, device)
    advice = advise_size(SIZES, model, lambda smaller: _fits(config, smaller, device, available))
    return (
        f"Training this model needs at least {needed / 1e9:,.1f} GB of memory, "
        f"and {available / 1e9:,.1f} are free: {advice}."
    )


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turn an allocator's errors into a ValueError of one sentence, with `advice` as its end."""
    try:
        yield
    except MemoryError:
        reason = "memory"
    except torch.OutOfMemoryError:
        reason = "GPU memory"
    except RuntimeError as error:
        if "alloc" not in str(error) and "out of memory" not in str(error):
            raise
        reason = "memory"
    else:
        return
    raise ValueError(f"There is not enough {reason} for this: {advice}.")
