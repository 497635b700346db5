"""Memory: what training takes, whether there is as much, and how large a micro-batch may be."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from slm.model.transformer import parameter_count
from slm.settings import ModelConfig, TrainConfig

# Options of mallopt(3), in glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
M_ARENA_MAX = -8

USABLE = 0.8  # share of the available memory that a step is planned for: estimates are rough
BYTES_PER_WEIGHT = 16  # the weight, its gradient, and up to two numbers of the optimizer's
SIZES = ("context_length", "n_layers", "d_model")  # settings that may be too large for the memory


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


def available_memory(device: str = "cpu") -> int | None:
    """Bytes that this process may still take on a device; None where PyTorch does not say (MPS)."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    if device != "cpu":
        return None
    available = psutil.virtual_memory().available
    in_container = _container_memory()
    return available if in_container is None else min(available, in_container)


def _container_memory() -> int | None:
    """Bytes that a container's limit leaves, which psutil does not know; None without a limit.

    On Linux, the limit is in control groups, version 2 or 1.
    """
    groups = Path("/sys/fs/cgroup")
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            allowed = int((groups / limit).read_text(encoding="ascii"))
            used = int((groups / usage).read_text(encoding="ascii"))
            return allowed - used
        except (OSError, ValueError):  # there is none, or "max"
            continue
    return None


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
    advice = "choose a smaller model"
    for name in SIZES:
        largest = _largest_that_fits(name, config, model, device, available)
        if largest:
            advice = f"set {name} to at most {largest:,}"
            break
    return (
        f"Training this model needs at least {needed / 1e9:,.1f} GB of memory, "
        f"and {available / 1e9:,.1f} are free: {advice}."
    )


def _largest_that_fits(
    name: str, config: TrainConfig, model: ModelConfig, device: str, available: int
) -> int:
    """The largest value of a setting with which one row fits; 0 if there is none."""
    unit = 2 * model.n_heads if name == "d_model" else 1
    low, high = 0, getattr(model, name) // unit
    while low < high:  # bisect between what fits and what does not
        middle = (low + high + 1) // 2
        smaller = {name: middle * unit}
        if name == "d_model":
            smaller["d_ff"] = None
        if _fits(config, replace(model, **smaller), device, available):
            low = middle
        else:
            high = middle - 1
    return low * unit


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
