"""Does it repeat itself, does it copy? Measured in words, whatever the tokenizer (optional)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np


def distinct(stories: Sequence[str], n: int = 3) -> float:
    """The share of all runs of `n` words that are different ones (distinct-n, Li et al. 2016,
    arXiv:1510.03055). More stories give a lower share: compare sets of one size."""
    runs = [run for story in stories for run in _runs(story, n)]
    return len(set(runs)) / max(len(runs), 1)


def repetition(stories: Sequence[str], n: int = 4) -> float:
    """The share of runs of `n` words that have occurred before in the same story, as a mean over
    the stories (seq-rep-n, Welleck et al. 2019, arXiv:1908.04319)."""
    shares = [1 - len(set(runs)) / len(runs) for story in stories if (runs := _runs(story, n))]
    return float(np.mean(shares)) if shares else 0.0


def _runs(story: str, n: int) -> list[tuple[str, ...]]:
    words = story.split()
    return [*zip(*(words[i:] for i in range(n)))]


@dataclass(frozen=True)
class Copy:
    """A story's longest run of words that stands in the training text as it is."""

    start: int  # the first word of it, counted from 0
    words: int  # how many there are
    of: int  # words in the whole story
    text: str  # with single spaces between the words

    @property
    def large(self) -> bool:
        """Whether it is more than half of the story: then that is copied rather than written."""
        return self.words > self.of / 2


def longest_copies(
    stories: Sequence[str], training: Sequence[str], *, most: int = 1024
) -> list[Copy]:
    """For each story its longest run of words, of up to `most`, that stands in one of the training
    stories: words are what white space divides. Real stories which are not in the training text
    tell how much of this is natural.

    All texts become one row of numbers, and runs of 2, 4, 8, ... words get a number each, in the
    order of the alphabet, from the numbers of their halves (Manber & Myers 1993, suffix arrays). In
    this order, what has the most in common with a run stands beside it. Raises ValueError without
    stories on either side."""
    if not stories or not training or isinstance(stories, str) or isinstance(training, str):
        raise ValueError("Give a list of stories, and the list of those that were trained on.")
    split = [text.split() for text in chain(training, stories)]
    numbers = {word: i for i, word in enumerate(dict.fromkeys(chain.from_iterable(split)))}
    # Between two texts stands a number of its own, so that no run goes from one into the next.
    ends = range(len(numbers), len(numbers) + len(split))
    row = np.fromiter(
        chain.from_iterable((*map(numbers.get, words), end) for words, end in zip(split, ends)),
        np.int64,
    )
    sizes = np.array([len(words) for words in split])
    starts = np.cumsum(sizes + 1) - sizes - 1  # of each text in the row
    first = starts[len(training)]  # here the training text ends
    longest = min(most, sizes[len(training) :].max(initial=1))
    levels = [np.unique(row, return_inverse=True)[1]]
    while 2 ** (len(levels) - 1) < longest and levels[-1].max() < len(row) - 1:
        half = 2 ** (len(levels) - 1)
        second = np.append(levels[-1][half:], np.full(min(half, len(row)), -1))[: len(row)] + 1
        levels.append(np.unique(levels[-1] * (len(row) + 1) + second, return_inverse=True)[1])

    order = np.argsort(levels[-1], kind="stable")  # ties: the training text comes first
    trained, places = order < first, np.arange(len(order))
    before = np.maximum.accumulate(np.where(trained, places, -1))
    after = np.minimum.accumulate(np.where(trained, places, len(order))[::-1])[::-1]
    common = np.zeros(len(row), np.int64)
    for beside in (before, after):
        ours = ~trained & (beside >= 0) & (beside < len(order))
        mine, other = order[ours], order[beside[ours]]
        common[mine] = np.maximum(common[mine], _in_common(levels, mine, other))

    copies = []
    for words, start, size in zip(split, starts, sizes):
        if start < first:
            continue
        at = int(common[start : start + size].argmax()) if size else 0
        length = int(min(common[start + at], most)) if size else 0
        copies.append(Copy(at, length, int(size), " ".join(words[at : at + length])))
    return copies


def _in_common(levels: list[np.ndarray], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many words the runs that begin at the places `a` and `b` have in common."""
    length = np.zeros(len(a), np.int64)
    last = len(levels[0]) - 1
    for level in reversed(range(len(levels))):
        x, y = a + length, b + length
        same = (levels[level][x.clip(max=last)] == levels[level][y.clip(max=last)]) & (
            np.maximum(x, y) <= last
        )
        length += same * 2**level
    return length
