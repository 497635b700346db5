"""Exercises about choosing the next token."""

import torch
from torch import Tensor

from slm.exercises.checking import Exercise, Mistake


def with_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities of the next token at a temperature."""
    return (logits / temperature).softmax(dim=-1)


def _divide_probabilities(logits: Tensor, temperature: float) -> Tensor:
    return logits.softmax(dim=-1) / temperature


LOGITS = torch.tensor([2.0, 1.0, 0.0, -3.0])

TEMPERATURE = Exercise(
    reference=with_temperature,
    inputs=((LOGITS, 0.5), (LOGITS, 2.0), (LOGITS, 1.0)),
    mistakes=(
        Mistake(
            lambda logits, temperature: (logits * temperature).softmax(dim=-1),
            "Below 1 the likely should become likelier, but it becomes less so: divide.",
        ),
        Mistake(
            _divide_probabilities,
            "They no longer add up to 1: the temperature acts on the logits, before softmax.",
        ),
        Mistake(
            lambda logits, temperature: logits / temperature,
            "These are logits still: softmax makes probabilities of them.",
        ),
    ),
    hint="Divide, then softmax.",
)


def top_p(probabilities: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens whose probabilities reach `p`; the others get 0."""
    ordered, order = probabilities.sort(descending=True)
    before = ordered.cumsum(dim=0) - ordered
    kept = ordered * (before < p)
    return torch.zeros_like(probabilities).scatter(0, order, kept / kept.sum())


def _at_least_p(probabilities: Tensor, p: float) -> Tensor:
    kept = probabilities * (probabilities >= p)
    return kept / kept.sum()


def _one_too_few(probabilities: Tensor, p: float) -> Tensor:
    ordered, order = probabilities.sort(descending=True)
    kept = ordered * (ordered.cumsum(dim=0) <= p)
    return torch.zeros_like(probabilities).scatter(0, order, kept / kept.sum())


def _not_one_in_all(probabilities: Tensor, p: float) -> Tensor:
    return probabilities * (top_p(probabilities, p) > 0)


def _in_wrong_places(probabilities: Tensor, p: float) -> Tensor:
    ordered = probabilities.sort(descending=True).values
    return top_p(ordered, p)


CHANCES = torch.tensor([0.1, 0.5, 0.1, 0.3])

TOP_P = Exercise(
    reference=top_p,
    inputs=((CHANCES, 0.7), (CHANCES, 0.85), (CHANCES, 0.2), (CHANCES, 1.0)),
    mistakes=(
        Mistake(
            _at_least_p,
            "p is no limit for each single token: it is what those kept must reach together.",
        ),
        Mistake(
            _one_too_few,
            "The token that takes the sum past p belongs to those kept; at least one always stays.",
        ),
        Mistake(_not_one_in_all, "Those kept should add up to 1 again: divide by their sum."),
        Mistake(
            _in_wrong_places,
            "After sorting, put each probability back to the place where its token was.",
        ),
    ),
    hint="Sort; keep a token while the sum of those before it is below p; divide by what is kept.",
)
