"""Exercises that answer: `slm.check("softmax", my_softmax)` says whether a function is right."""

from slm.exercises.checking import EMPTY, Exercise, Feedback
from slm.exercises.measuring import BITS_PER_BYTE, CROSS_ENTROPY, EIGHT_BITS, LONGEST_COPY
from slm.exercises.model import ATTENTION, CAUSAL_MASK, HEADS, RMS_NORM, ROTATION, SOFTMAX
from slm.exercises.text import BIGRAM, MERGE, PAIRS
from slm.exercises.training import BACKWARD, SCHEDULE, STEP
from slm.exercises.writing import TEMPERATURE, TOP_P
from slm.utils.settings_checks import check_choice

EXERCISES: dict[str, Exercise] = {
    "merge": MERGE,
    "pairs": PAIRS,
    "bigram": BIGRAM,
    "softmax": SOFTMAX,
    "cross-entropy": CROSS_ENTROPY,
    "RMSNorm": RMS_NORM,
    "rotation": ROTATION,
    "causal mask": CAUSAL_MASK,
    "attention": ATTENTION,
    "heads": HEADS,
    "step": STEP,
    "backward": BACKWARD,
    "schedule": SCHEDULE,
    "temperature": TEMPERATURE,
    "top-p": TOP_P,
    "bits per byte": BITS_PER_BYTE,
    "longest copy": LONGEST_COPY,
    "8 bits": EIGHT_BITS,
}


def feedback(name: str, answer: object) -> Feedback:
    """What can be said about an answer to the exercise `name`. Raises ValueError where there is no
    such exercise."""
    check_choice("exercise", name, *EXERCISES)
    return EXERCISES[name].review(answer)


def check(name: str, answer: object) -> None:
    """Print whether `answer`, a function, solves the exercise `name`; if not, where it goes wrong
    and a hint. Raises ValueError where there is no such exercise."""
    result = feedback(name, answer)
    mark = "✓" if result.right else "✗"
    if result.message == EMPTY:
        mark = "○"  # nothing is wrong yet
    print(f"{mark} {name}: {result.message}")


__all__ = ["EXERCISES", "Exercise", "Feedback", "check", "feedback"]
