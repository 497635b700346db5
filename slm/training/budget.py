"""The budget of a run: how far along is it, and is it over?"""

import math
from dataclasses import dataclass

from slm.settings import TrainConfig
from slm.training.schedule import learning_rate_factor


@dataclass(frozen=True)
class Budget:
    """How long a run lasts: a number of steps, or else minutes by the clock."""

    tokens_per_step: int
    steps: int | None = None
    minutes: float | None = None

    @classmethod
    def of(cls, config: TrainConfig, context_length: int) -> "Budget":
        """The budget that was given as steps, tokens, minutes or a schedule."""
        tokens_per_step = config.batch_size * config.grad_accumulation * context_length
        if config.minutes:
            return cls(tokens_per_step, minutes=config.minutes)
        if config.schedule:
            return cls(tokens_per_step, steps=len(config.schedule))
        if config.tokens:
            return cls(tokens_per_step, steps=math.ceil(config.tokens / tokens_per_step))
        return cls(tokens_per_step, steps=config.steps)

    def progress(self, step: int, seconds: float) -> float:
        """How far along a run is after `step` steps and `seconds`, from 0 to 1."""
        if self.steps:
            return min(1.0, step / self.steps)
        return min(1.0, seconds / 60 / self.minutes)

    def learning_rate(self, config: TrainConfig, step: int, progress: float) -> float:
        """The learning rate of step number `step`, before which the run was at `progress`."""
        if config.schedule:
            return config.schedule[step - 1]
        if self.steps:
            middle = (step - 0.5) / self.steps  # of the step: at its beginning the first rate is 0
            return config.learning_rate * learning_rate_factor(middle, config)
        beginning = max(progress, 1e-3)  # by the clock, nothing later is known
        return config.learning_rate * learning_rate_factor(beginning, config)

    def evaluations_due(self, config: TrainConfig, step: int, progress: float) -> int:
        """How many of the run's evaluations should have been made after step number `step`."""
        if self.steps:
            return step * config.evaluations // self.steps
        return int(progress * config.evaluations)
