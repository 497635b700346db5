"""Does it repeat itself, does it copy? Measured in words, whatever the tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def distinct(stories: Sequence[str], n: int = 3) -> float:
    """The share of different ones among all runs of `n` words (distinct-n).

    (Li et al. 2016, arXiv:1510.03055.) More stories give a lower share: compare sets of one size.
    Raises ValueError for a single text.
    """
    _check_is_list(stories)
    runs = []
    for story in stories:
        runs.extend(_runs(story, n))
    if not runs:
        return 0.0
    return len(set(runs)) / len(runs)


def repetition(stories: Sequence[str], n: int = 4) -> float:
    """The share of runs of `n` words that occurred earlier in the same story (seq-rep-n).

    It is the mean over the stories (Welleck et al. 2019, arXiv:1908.04319). Raises ValueError for a
    single text.
    """
    _check_is_list(stories)
    shares = []
    for story in stories:
        runs = _runs(story, n)
        if runs:
            shares.append(1 - len(set(runs)) / len(runs))
    return float(np.mean(shares)) if shares else 0.0


def _check_is_list(stories: Sequence[str]) -> None:
    """Raise ValueError for one text: its letters would be taken for stories."""
    if isinstance(stories, str):
        raise ValueError("Give a list of stories: this is one text.")


def _runs(story: str, n: int) -> list[tuple[str, ...]]:
    """All runs of `n` words of a story, those that overlap too."""
    words = story.split()
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


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
    """For each story the longest run of words, up to `most`, that is also in a training story.

    Words are separated by white space. Held-out stories, which are not in the training text either,
    show how much overlap is natural.

    All texts, one after the other, become one array of word numbers, and its *suffix array* is
    made (Manber & Myers 1993): all places in the text, sorted by what follows from there on, as in
    a dictionary. The run that has the most words in common with the one at a place stands next to
    it in this order, so that it need not be searched for.

    Raises ValueError without stories on either side.
    """
    if not stories or not training or isinstance(stories, str) or isinstance(training, str):
        raise ValueError("Give a list of stories, and the list of those that were trained on.")
    texts = [text.split() for text in (*training, *stories)]  # each a list of words
    numbers = _number_words(texts)
    sizes = np.array([len(words) + 1 for words in texts])  # in `numbers`, with the end of each text
    starts = np.cumsum(sizes) - sizes
    first_story = len(training)  # its place among all texts
    longest_story = max(len(words) for words in texts[first_story:])

    ranks = _rank_runs(numbers, min(most, longest_story))
    in_common = _longest_match_with_training(ranks, training_end=starts[first_story])

    copies = []
    for words, start in zip(texts[first_story:], starts[first_story:], strict=True):
        matches = in_common[start : start + len(words)]
        copies.append(_longest_copy(words, matches, most))
    return copies


def _longest_copy(words: list[str], matches: np.ndarray, most: int) -> Copy:
    """The longest copied run of a story, given how many words are copied from each word on."""
    if not words:
        return Copy(start=0, words=0, of=0, text="")
    start = int(matches.argmax())
    length = min(int(matches[start]), most)
    return Copy(start, length, len(words), " ".join(words[start : start + length]))


def _number_words(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """All texts as one array of integers, one for each different word.

    After each text stands an integer of its own, so that no run continues into the next text.
    """
    number_of = {}
    for words in texts:
        for word in words:
            number_of.setdefault(word, len(number_of))
    numbers = []
    for index, words in enumerate(texts):
        numbers.extend(number_of[word] for word in words)
        numbers.append(len(number_of) + index)
    return np.array(numbers, dtype=np.int64)


def _rank_runs(numbers: np.ndarray, longest: int) -> list[np.ndarray]:
    """The ranks, in sorted order, of the runs that begin at each place: first of runs of one word,
    then of 2, 4, 8, ... words, up to `longest` or more.

    Equal runs have equal ranks. Each array of ranks follows from the one before: a run of 2 k words
    is the pair of the ranks of its two halves.
    """
    size = len(numbers)
    ranks = [np.unique(numbers, return_inverse=True)[1]]
    length = 1
    while length < longest and ranks[-1].max() < size - 1:  # at size - 1 all runs are different
        first_half = ranks[-1]
        second_half = np.full(size, -1)  # beyond the end there is nothing, and that comes first
        second_half[: max(size - length, 0)] = first_half[length:]
        pairs = first_half * (size + 1) + second_half + 1
        ranks.append(np.unique(pairs, return_inverse=True)[1])
        length *= 2
    return ranks


def _longest_match_with_training(ranks: list[np.ndarray], training_end: int) -> np.ndarray:
    """For each place from `training_end` on, the length in words of the longest run there that is
    also a training run. That one is the nearest before or after it in the sorted order.
    """
    size = len(ranks[0])
    order = np.argsort(ranks[-1], kind="stable")  # the suffix array; of equal runs, training first
    is_training = order < training_end
    positions = np.arange(size)
    nearest_before = np.maximum.accumulate(np.where(is_training, positions, -1))
    nearest_after = np.minimum.accumulate(np.where(is_training, positions, size)[::-1])[::-1]
    in_common = np.zeros(size, np.int64)
    for nearest in (nearest_before, nearest_after):
        compared = ~is_training & (nearest >= 0) & (nearest < size)
        places = order[compared]
        training_places = order[nearest[compared]]
        matches = _words_in_common(ranks, places, training_places)
        in_common[places] = np.maximum(in_common[places], matches)
    return in_common


def _words_in_common(ranks: list[np.ndarray], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many words are the same from the places `a` and `b` on: the longest runs are compared
    first, and where they are equal, what follows them.
    """
    size = len(ranks[0])
    length = np.zeros(len(a), np.int64)
    for level in reversed(range(len(ranks))):
        next_a = a + length
        next_b = b + length
        inside = (next_a < size) & (next_b < size)
        rank_a = ranks[level][next_a.clip(max=size - 1)]
        rank_b = ranks[level][next_b.clip(max=size - 1)]
        length += (inside & (rank_a == rank_b)) * 2**level
    return length
