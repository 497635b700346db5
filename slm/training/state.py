"""The state of a training run: all that changes from step to step."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch.amp import GradScaler

from slm.model.transformer import Transformer
from slm.training.history import History
from slm.training.optimizer import Optimizers


@dataclass
class TrainingState:
    """All that changes from step to step, and so all that resuming a run needs."""

    model: Transformer
    optimizers: Optimizers
    batches: Iterator  # of training, `Batches`: its place in the data is saved
    scaler: GradScaler
    history: History
    progress: float = 0.0  # of the budget, from 0 to 1
