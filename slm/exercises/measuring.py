"""Exercises about scores, copies and rounding."""

import math

import torch
from torch import Tensor

from slm.exercises.checking import Exercise, Mistake, random_tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean surprise, in nats, of logits `(T, V)` at targets `(T,)`."""
    return -_log_probabilities(logits, targets).mean()


def _log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    places = torch.arange(len(targets))
    return logits.log_softmax(dim=-1)[places, targets]


CROSS_ENTROPY = Exercise(
    reference=cross_entropy,
    inputs=(
        (torch.zeros(2, 4), torch.tensor([0, 3])),
        (random_tensor(5, 7, seed=6), torch.tensor([6, 0, 3, 3, 1])),
    ),
    mistakes=(
        Mistake(
            lambda logits, targets: -_log_probabilities(logits, targets).sum(),
            "That is the sum over all tokens: take the mean.",
        ),
        Mistake(
            lambda logits, targets: _log_probabilities(logits, targets).mean(),
            "It is negative: surprise is minus the logarithm.",
        ),
        Mistake(
            lambda logits, targets: -logits[torch.arange(len(targets)), targets].mean(),
            "Logits are not probabilities: softmax first, then the logarithm.",
        ),
        Mistake(
            lambda logits, targets: cross_entropy(logits, targets) / math.log(2),
            "These are bits: use the natural logarithm, for nats.",
        ),
    ),
    hint="Softmax each row, pick the probability of its target, take -log, and the mean.",
)


def bits_per_byte(nats: float, text: str) -> float:
    """All nats that a text cost, in bits, for each of its UTF-8 bytes."""
    return nats / math.log(2) / len(text.encode())


BITS_PER_BYTE = Exercise(
    reference=bits_per_byte,
    inputs=((10.0, "a dog"), (10.0, "“Tschüß!” 🐦")),
    mistakes=(
        Mistake(
            lambda nats, text: nats / math.log(2) / len(text),
            "You count characters. In UTF-8 a character may be several bytes: len(text.encode()).",
        ),
        Mistake(
            lambda nats, text: nats / len(text.encode()),
            "These are nats per byte: a bit is ln 2 nats.",
        ),
        Mistake(
            lambda nats, text: nats * math.log(2) / len(text.encode()),
            "A nat is more than a bit, so there must be more bits than nats: divide by ln 2.",
        ),
    ),
    hint="Nats to bits: divide by ln 2. Then divide by the number of bytes.",
)


def longest_copy(story: str, training: str) -> int:
    """Words in the longest run of the story's words that stands in the training text."""
    words = story.split()
    source = training.split()
    longest = 0
    for start in range(len(words)):
        for place in range(len(source)):
            length = 0
            while (
                start + length < len(words)
                and place + length < len(source)
                and words[start + length] == source[place + length]
            ):
                length += 1
            longest = max(longest, length)
    return longest


def _from_the_beginning(story: str, training: str) -> int:
    length = 0
    for one, other in zip(story.split(), training.split(), strict=False):
        if one != other:
            break
        length += 1
    return length


def _common_words(story: str, training: str) -> int:
    return len(set(story.split()) & set(training.split()))


def _as_letters(story: str, training: str) -> int:
    longest = 0
    for start in range(len(story)):
        for end in range(start + 1, len(story) + 1):
            if story[start:end] in training:
                longest = max(longest, end - start)
    return longest


def _inside_words(story: str, training: str) -> int:
    words = story.split()
    longest = 0
    for start in range(len(words)):
        for end in range(start + 1, len(words) + 1):
            if " ".join(words[start:end]) in " ".join(training.split()):
                longest = max(longest, end - start)
    return longest


LONGEST_COPY = Exercise(
    reference=longest_copy,
    inputs=(
        ("the red dog ran to the house", "a cat ran to the red barn"),
        ("one two three", "four five"),
        ("a small dog sat down", "once a small dog stood and a small dog sat up"),
        ("the art of it", "look at the artful dodger"),
    ),
    mistakes=(
        Mistake(
            _from_the_beginning, "A copy may begin anywhere, in the story and in the training text."
        ),
        Mistake(_common_words, "Those are words that both have: they must stand in one run."),
        Mistake(_as_letters, "You count letters: the answer is a number of words."),
        Mistake(
            _inside_words,
            "Compared as text, “the art” stands in “the artful”: compare lists of words.",
        ),
    ),
    hint="From every word of the story and every word of the training text: how far do they agree?",
)


def eight_bits(row: Tensor) -> tuple[Tensor, Tensor]:
    """A row as whole numbers from -127 to 127, and the scale that they are to be multiplied by."""
    scale = row.abs().max() / 127
    return (row / scale).round(), scale


def _largest_without_sign(row: Tensor) -> tuple[Tensor, Tensor]:
    scale = row.max() / 127
    return (row / scale).round(), scale


def _cut_off(row: Tensor) -> tuple[Tensor, Tensor]:
    scale = row.abs().max() / 127
    return (row / scale).trunc(), scale


def _one_step_more(row: Tensor) -> tuple[Tensor, Tensor]:
    scale = row.abs().max() / 128
    return (row / scale).round(), scale


def _wrong_way_round(row: Tensor) -> tuple[Tensor, Tensor]:
    scale = 127 / row.abs().max()
    return (row * scale).round(), scale


EIGHT_BITS = Exercise(
    reference=eight_bits,
    inputs=((torch.tensor([0.5, -1.0, 0.126]),), (random_tensor(32, seed=7),)),
    mistakes=(
        Mistake(
            _largest_without_sign,
            "The largest weight may be negative: take the maximum of the absolute values.",
        ),
        Mistake(_cut_off, "Codes are cut off, not rounded: that doubles the largest error."),
        Mistake(_one_step_more, "The largest code should be 127: an 8-bit number ends there."),
        Mistake(
            _wrong_way_round,
            "The scale should say what one step is worth, so that codes * scale is the row again.",
        ),
    ),
    hint="scale: the largest absolute value, over 127. codes: row / scale, rounded.",
)
