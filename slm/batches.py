"""Stories become numbers: one long array, `<eot> story <eot> story <eot>`, cut into batches."""

import hashlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.files import cache_folder, write

STORIES_AT_ONCE = 100  # encoded together, which is faster
TOKENS_AT_ONCE = 2**24  # searched together: a memory map may be larger than memory


def digest(stories: Sequence[str]) -> str:
    """A short fingerprint of some stories and their order."""
    sha = hashlib.sha256()
    for number, story in enumerate(stories):
        separator = "\0" if number > 0 else ""
        sha.update((separator + story).encode("utf-8", "replace"))
    return sha.hexdigest()[:16]


def pack(stories: Sequence[str], tokenizer: Tokenizer, in_memory: int = 2**29) -> np.ndarray:
    """All stories as one array of token ids, in 16 bits each where the vocabulary allows, else 32.

    The array is cached on disk, under a name made of all that determines it. If it has more than
    `in_memory` bytes, it is a read-only memory map. Raises ValueError if there is no story.
    """
    if not stories:
        raise ValueError("There are no stories to pack: give at least one.")
    path = cache_folder() / "tokens" / f"{tokenizer.digest}-{digest(stories)}.bin"
    if not path.exists():
        write(path, (ids.tobytes() for ids in _encode(stories, tokenizer)))
    if path.stat().st_size > in_memory:
        return np.memmap(path, tokenizer.dtype, "r")
    return np.fromfile(path, tokenizer.dtype)


def _encode(stories: Sequence[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The array of `pack`, in parts."""
    yield np.array([tokenizer.eot_id], tokenizer.dtype)
    stories = tqdm(stories, "Packing stories", leave=False, file=sys.stdout, delay=2)
    part = []
    for story in stories:
        part.append(story)
        if len(part) == STORIES_AT_ONCE:
            yield tokenizer.encode_many(part)
            part = []
    if part:
        yield tokenizer.encode_many(part)


class Batches(Iterator):
    """An endless supply of batches `(x, y)`, `(B, T)` each, with `y` one token ahead of `x`.

    A row begins where a story begins, so that no context is missing. More stories follow until the
    row is full; the last one is cut off. Each epoch shuffles the stories anew.

    `state` counts the stories that were taken: set it to resume. Of `world_size` processes each
    draws all rows and takes its share, `rows[rank::world_size]`.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        batch_size: int,
        context_length: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if batch_size % world_size:
            raise ValueError(f"batch_size is {batch_size}: give a multiple of {world_size=}.")
        self.tokens = tokens
        self.batch_size = batch_size
        self.context_length = context_length
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.state = 0
        self._boundaries = story_boundaries(tokens)
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def __next__(self) -> tuple[Tensor, Tensor]:
        """The next batch, or this process's share of it: inputs and targets, `(B, T)` int64."""
        rows = np.stack([self._row() for _ in range(self.batch_size)])
        rows = rows[self.rank :: self.world_size]  # (B, T + 1)
        return torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])

    def _row(self) -> np.ndarray:
        """The next row of T + 1 ids: the last one is only a target."""
        parts = [self.tokens[:1]]  # end of text: after it, a story begins
        length = 1
        while length <= self.context_length:
            story = self._next_story()
            parts.append(story)
            length += len(story)
        return np.concatenate(parts, dtype=np.int64)[: self.context_length + 1]

    def _next_story(self) -> np.ndarray:
        """The ids of the next story of the epoch, with the end of text after it."""
        epoch, place = divmod(self.state, len(self._boundaries) - 1)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = epoch_order(len(self._boundaries) - 1, self.seed, epoch)
        story = self._order[place]
        self.state += 1
        start = self._boundaries[story] + 1
        end = self._boundaries[story + 1] + 1
        return self.tokens[start:end]


def story_boundaries(tokens: np.ndarray) -> np.ndarray:
    """The places of all ends of text in a packed array: before the first story, and after each."""
    end_of_text = tokens[0]
    found = []
    for start in range(0, len(tokens), TOKENS_AT_ONCE):
        part = tokens[start : start + TOKENS_AT_ONCE]
        found.append(start + np.flatnonzero(part == end_of_text))
    return np.concatenate(found)


def epoch_order(stories: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch, counted from 0, takes the stories: a random permutation."""
    return np.random.default_rng((seed, epoch)).permutation(stories)
