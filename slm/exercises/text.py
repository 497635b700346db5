"""Exercises about text and tokens."""

from itertools import pairwise

import torch
from torch import Tensor

from slm.exercises.checking import Exercise, Mistake


def merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """Join every occurrence of `pair`, from left to right."""
    joined = []
    place = 0
    while place < len(pieces):
        if tuple(pieces[place : place + 2]) == tuple(pair):
            joined.append(pieces[place] + pieces[place + 1])
            place += 2
        else:
            joined.append(pieces[place])
            place += 1
    return joined


def _merge_once(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    for place in range(len(pieces) - 1):
        if tuple(pieces[place : place + 2]) == tuple(pair):
            return [*pieces[:place], pieces[place] + pieces[place + 1], *pieces[place + 2 :]]
    return pieces


def _merge_without_skipping(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    joined = []
    for place, piece in enumerate(pieces):
        if tuple(pieces[place : place + 2]) == tuple(pair):
            joined.append(piece + pieces[place + 1])
        else:
            joined.append(piece)
    return joined


def _merge_and_lose_the_rest(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    neighbours = pairwise(pieces)
    return [first + second for first, second in neighbours if (first, second) == tuple(pair)]


MERGE = Exercise(
    reference=merge,
    inputs=(
        (["t", "h", "e", " ", "t", "h"], ("t", "h")),
        (["a", "a", "a"], ("a", "a")),
        (["a", "b"], ("x", "y")),
        (["the", " ", "the", " "], ("the", " ")),
    ),
    mistakes=(
        Mistake(_merge_once, "Only the first occurrence was joined: go on to the end of the list."),
        Mistake(
            _merge_without_skipping,
            "The second half of a joined pair is still there: after joining, step over two pieces.",
        ),
        Mistake(
            _merge_and_lose_the_rest, "Pieces that are not part of the pair must stay in the list."
        ),
    ),
    hint="Walk along the list: where this piece and the next are the pair, append both as one.",
)


def pairs(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs, and for each the token that comes next."""
    return tokens[:-1], tokens[1:]


PAIRS = Exercise(
    reference=pairs,
    inputs=((torch.tensor([7, 3, 5, 9]),), (torch.tensor([1, 2]),)),
    mistakes=(
        Mistake(
            lambda tokens: (tokens[1:], tokens[:-1]),
            "You predict the token before: the target is what comes next.",
        ),
        Mistake(
            lambda tokens: (tokens, tokens),
            "Input and target are the same: a model that copies would be perfect.",
        ),
        Mistake(
            lambda tokens: (tokens, tokens[1:]),
            "After the last token nothing comes: it cannot be an input.",
        ),
    ),
    hint="Both are the same row without one token: which one does each leave out?",
)


def bigram(ids: list[int], vocab_size: int) -> Tensor:
    """The share of times that each token follows each other one, `(V, V)`."""
    counts = torch.zeros(vocab_size, vocab_size)
    for first, second in pairwise(ids):
        counts[first, second] += 1
    return counts / counts.sum(dim=1, keepdim=True).clamp(min=1)


def _bigram_counts(ids: list[int], vocab_size: int) -> Tensor:
    counts = torch.zeros(vocab_size, vocab_size)
    for first, second in pairwise(ids):
        counts[first, second] += 1
    return counts


def _bigram_of_all(ids: list[int], vocab_size: int) -> Tensor:
    counts = _bigram_counts(ids, vocab_size)
    return counts / counts.sum()


def _bigram_by_column(ids: list[int], vocab_size: int) -> Tensor:
    counts = _bigram_counts(ids, vocab_size)
    return counts / counts.sum(dim=0, keepdim=True).clamp(min=1)


BIGRAM = Exercise(
    reference=bigram,
    inputs=(([0, 1, 0, 1, 0, 2], 3), ([2, 2, 2, 1], 4)),
    mistakes=(
        Mistake(_bigram_counts, "These are counts: divide each row by its sum."),
        Mistake(
            _bigram_of_all,
            "All numbers together add up to 1. Each row should: given this token, what comes next?",
        ),
        Mistake(
            _bigram_by_column,
            "The columns add up to 1, not the rows: which token is given, which one is asked for?",
        ),
        Mistake(
            lambda ids, vocab_size: bigram(ids, vocab_size).T,
            "Rows and columns are swapped: the row is the token that comes first.",
        ),
    ),
    hint="Count at [this token, next token]; then make each row shares. A row of zeros stays so.",
)
