"""Exercises about learning."""

import torch
from torch import Tensor

from slm.exercises.checking import Exercise, Mistake, random_tensor


def step(weight: float, gradient: float, rate: float) -> float:
    """One step downhill."""
    return weight - rate * gradient


STEP = Exercise(
    reference=step,
    inputs=((1.0, 4.0, 0.1), (-2.0, -3.0, 0.5), (0.5, 0.0, 0.1)),
    mistakes=(
        Mistake(
            lambda weight, gradient, rate: weight + rate * gradient,
            "That goes uphill: the slope points to where the loss grows.",
        ),
        Mistake(
            lambda weight, gradient, rate: weight - gradient,
            "The learning rate is not used: it says how much of the slope a step is.",
        ),
        Mistake(
            lambda weight, gradient, rate: -rate * gradient,
            "That is the step alone: give back the weight after it.",
        ),
    ),
    hint="Take away from the weight its slope, times the learning rate.",
)


def backward(x: Tensor, matrix: Tensor, came: int) -> Tensor:
    """The slope of the surprise at token `came` for each weight of a matrix `(C, V)`.

    The logits are `x @ matrix`, with `x` of shape `(C,)`.
    """
    return torch.outer(x, _logit_slopes(x, matrix, came))


def _logit_slopes(x: Tensor, matrix: Tensor, came: int) -> Tensor:
    slopes = (x @ matrix).softmax(dim=0)
    slopes[came] -= 1
    return slopes


def _without_the_target(x: Tensor, matrix: Tensor, came: int) -> Tensor:
    return torch.outer(x, (x @ matrix).softmax(dim=0))


def _without_softmax(x: Tensor, matrix: Tensor, came: int) -> Tensor:
    slopes = x @ matrix
    slopes[came] -= 1
    return torch.outer(x, slopes)


BACKWARD = Exercise(
    reference=backward,
    inputs=(
        (torch.tensor([1.0, -2.0]), random_tensor(2, 4, seed=10), 2),
        (random_tensor(5, seed=8), random_tensor(5, 7, seed=9), 0),
    ),
    mistakes=(
        Mistake(
            _without_the_target,
            "The token that came plays no part: from its probability, take away the 1 that it "
            "should have had.",
        ),
        Mistake(
            lambda x, matrix, came: -backward(x, matrix, came),
            "The sign is the wrong way round: as the logit of the token that came grows, the loss "
            "falls, so its slope is negative.",
        ),
        Mistake(
            lambda x, matrix, came: torch.outer(_logit_slopes(x, matrix, came), x),
            "Rows and columns are exchanged: a row for each number of x, a column for each token.",
        ),
        Mistake(
            _logit_slopes,
            "These are the slopes of the logits. One step further back, each is multiplied by "
            "every number of x.",
        ),
        Mistake(_without_softmax, "Logits are not probabilities: softmax first."),
    ),
    hint="The logits' slopes are p - y. Multiply every number of x by every one of them.",
)


def schedule(step: int, steps: int, peak: float, warmup: int) -> float:
    """The learning rate: up in a line during `warmup` steps, then down to 0 at `steps`."""
    if step < warmup:
        return peak * step / warmup
    return peak * (steps - step) / (steps - warmup)


def _stays_at_the_peak(step: int, steps: int, peak: float, warmup: int) -> float:
    return peak * min(1.0, step / warmup)


def _falls_from_the_beginning(step: int, steps: int, peak: float, warmup: int) -> float:
    if step < warmup:
        return peak * step / warmup
    return peak * (steps - step) / steps


def _rises(step: int, steps: int, peak: float, warmup: int) -> float:
    if step < warmup:
        return peak * step / warmup
    return peak * (1 + (step - warmup) / (steps - warmup))


SCHEDULE = Exercise(
    reference=schedule,
    inputs=tuple((step, 100, 0.01, 10) for step in (0, 5, 10, 55, 99, 100)),
    mistakes=(
        Mistake(_stays_at_the_peak, "After the warm-up it must fall, to 0 at the last step."),
        Mistake(
            _falls_from_the_beginning,
            "There is a jump where the warm-up ends. The fall begins there, and takes "
            "steps - warmup steps.",
        ),
        Mistake(_rises, "After the warm-up it rises where it should fall: upside down."),
        Mistake(
            lambda step, steps, peak, warmup: peak * (steps - step) / steps,
            "The warm-up is missing: the first steps should be small.",
        ),
    ),
    hint="Two straight lines: from 0 up to the peak at `warmup`, then down to 0 at `steps`.",
)
