"""How much of a step fits into a GPU's memory at once (optional)."""

import torch

from slm.model import ModelConfig


def rows_at_once(device: str, rows: int, config: ModelConfig, world_size: int = 1) -> int:
    """How many of a step's rows to read at once: the most that divide them and, each with what is
    kept of it for the way back, fit into 80 % of the free memory of `world_size` such GPUs; on
    other devices, all."""
    if device != "cuda":
        return rows
    size = 40 * config.d_model + 10 * config.d_ff  # bytes by token, measured
    size = (config.n_layers * size + 12 * config.vocab_size) * config.context_length
    room = max(0.8 * torch.cuda.mem_get_info()[0] // size, 1) * world_size
    fitting = (n for n in range(rows, 0, -1) if rows % n == n % world_size == 0 and n <= room)
    return next(fitting, rows)
