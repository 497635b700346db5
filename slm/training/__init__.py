"""Training: the loop, and beside it each of its parts."""

from slm.settings import PRESETS, TrainConfig, configure
from slm.training.history import History, Run, Step, StepEvaluation
from slm.training.loop import train
from slm.training.optimizer import Muon, make_optimizers, orthogonalize
from slm.training.schedule import learning_rate_factor
from slm.training.step import train_step

__all__ = [
    "PRESETS",
    "History",
    "Muon",
    "Run",
    "Step",
    "StepEvaluation",
    "TrainConfig",
    "configure",
    "learning_rate_factor",
    "make_optimizers",
    "orthogonalize",
    "train",
    "train_step",
]
