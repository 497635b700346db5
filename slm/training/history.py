"""The record of a training run: every step, every evaluation."""

from dataclasses import dataclass, field
from pathlib import Path

from slm.model.transformer import Transformer
from slm.settings import TrainConfig
from slm.tokenizer.byte_pair import Tokenizer


@dataclass(frozen=True)
class Step:
    """One update of the weights."""

    step: int  # counted from 1
    loss: float  # nats per token, of the batch before the update
    learning_rate: float
    grad_norm: float  # length of the gradient before clipping
    tokens: int  # read so far
    seconds: float  # since the run began, pauses left out


@dataclass(frozen=True)
class StepEvaluation:
    """The model after a step: its score on validation stories, and a sample of its writing."""

    step: int
    tokens: int
    nats_per_token: float
    bits_per_byte: float
    text: str


@dataclass(frozen=True)
class History:
    """All that happened in a run."""

    steps: list[Step] = field(default_factory=list)
    evaluations: list[StepEvaluation] = field(default_factory=list)

    @classmethod
    def from_dict(cls, record: dict) -> "History":
        """The history of which `dataclasses.asdict` made `record`."""
        return cls(
            steps=[Step(**step) for step in record["steps"]],
            evaluations=[StepEvaluation(**item) for item in record["evaluations"]],
        )

    @property
    def seconds(self) -> float:
        """How long the run took until its last step, pauses left out."""
        return self.steps[-1].seconds if self.steps else 0.0

    @property
    def schedule(self) -> tuple[float, ...]:
        """The learning rate of each step: `train(..., schedule=...)` with it replays the run."""
        return tuple(step.learning_rate for step in self.steps)


@dataclass(frozen=True)
class Run:
    """What `train` returns: the model, and how it came to be."""

    model: Transformer = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    history: History = field(repr=False)
    folder: Path
    config: TrainConfig
    finished: bool = False
