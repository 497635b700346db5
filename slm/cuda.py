"""How much of a step fits into a GPU's memory at once (optional)."""

import torch

from slm.model import ModelConfig
from slm.optimization import TrainConfig


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
