"""Exercises about learning."""

from slm.exercises.checking import Exercise, Mistake


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
