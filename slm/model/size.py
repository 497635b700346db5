"""The size of a transformer, computed without building it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from slm.settings import ModelConfig
from slm.utils.memory import available_memory

BYTES_PER_WEIGHT = 4  # float32
BYTES_PER_LAYER = 20_000  # of Python's objects; measured: 24,000
SIZES = ("vocab_size", "context_length", "n_layers", "d_ff", "d_model")  # may each be too large


def parameter_count(config: ModelConfig) -> int:
    """How many weights a transformer with these settings has."""
    attention = 2 * config.d_model * (config.n_heads + config.n_kv_heads) * config.head_dim
    mlp = 3 * config.d_model * config.d_ff
    norms = 2 * config.d_model
    final_norm = config.d_model
    tables = 1 if config.tie_embeddings else 2
    embeddings = tables * config.vocab_size * config.d_model
    return embeddings + config.n_layers * (attention + mlp + norms) + final_norm


def model_bytes(config: ModelConfig) -> int:
    """The memory that a transformer takes at least: its weights, and what is computed of them."""
    rotary_tables = 2 * config.context_length * config.head_dim * BYTES_PER_WEIGHT
    weights = BYTES_PER_WEIGHT * parameter_count(config)
    return weights + rotary_tables + BYTES_PER_LAYER * config.n_layers


def check_memory(config: ModelConfig) -> None:
    """Raise ValueError, naming the largest setting that fits, for a model that memory cannot hold.

    That of PyTorch's default device counts, where new models are built.
    """
    available = available_memory(torch.get_default_device().type)
    needed = model_bytes(config)
    if available is None or needed <= available:
        return
    advice = advise_size(SIZES, config, lambda smaller: model_bytes(smaller) <= available)
    raise ValueError(
        f"This model needs at least {needed / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} "
        f"are free: {advice}."
    )


def advise_size(
    names: Sequence[str], config: ModelConfig, fits: Callable[[ModelConfig], bool]
) -> str:
    """What to set so that a model `fits`: of the settings `names` the first that is enough."""
    for name in names:
        largest = _largest_that_fits(name, config, fits)
        if largest:
            return f"set {name} to at most {largest:,}"
    return f"set {' and '.join(names)} to less"


def _largest_that_fits(name: str, config: ModelConfig, fits: Callable[[ModelConfig], bool]) -> int:
    """The largest value of a setting with which the model fits; 0 if there is none."""
    unit = 2 * config.n_heads if name == "d_model" else 1
    low, high = 0, getattr(config, name) // unit
    while low < high:  # bisect between what fits and what does not
        middle = (low + high + 1) // 2
        smaller = {name: middle * unit}
        if name == "d_model":
            smaller["d_ff"] = None
        if fits(replace(config, **smaller)):
            low = middle
        else:
            high = middle - 1
    return low * unit
