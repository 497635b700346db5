"""Stories become numbers: packed once into one long array, then cut into batches of rows.

The array reads `<eot> story <eot> story <eot>`: an end-of-text token stands after every story, and
before the first, so that a model learns both where stories begin and where to stop.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from slm.files import cache_folder, writing
from slm.tokenizer import Tokenizer


def digest(stories: Sequence[str]) -> str:
    """A short fingerprint of some stories and their order."""
    sha = hashlib.sha256()
    for story in stories:
        sha.update(story.encode("utf-8", "replace") + b"\0")
    return sha.hexdigest()[:16]


def pack(stories: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """All stories as one array of token ids, in 16 bits each where the vocabulary allows, else 32.

    It is kept in the cache folder under a key of everything that determined it, written whole, and
    read from there the next time. Raises ValueError where there is no story.
    """
    if not stories:
        raise ValueError("There are no stories to pack: give at least one.")
    path = cache_folder() / "tokens" / f"{tokenizer.digest}-{digest(stories)}.npy"
    if not path.exists():
        eot = [tokenizer.eot_id]
        rows = (np.array(tokenizer.encode(story) + eot, tokenizer.dtype) for story in stories)
        with writing(path) as file:
            np.save(file, np.concatenate([np.array(eot, tokenizer.dtype), *rows]))
    return np.load(path, allow_pickle=False)


class Batches:
    """An endless supply of `(x, y)` batches, each `(B, T)`, with `y` one token ahead of `x`.

    Every row begins at the beginning of a story, so that the model never has to guess at a context
    it was not shown; further stories follow until the row is full, and the last one is cut off.
    Each epoch shuffles the stories anew. `state` says where the supply stands, and takes it there.
    """

    def __init__(self, tokens: np.ndarray, *, batch_size: int, context_length: int, seed: int = 0):
        """Take packed `tokens` (see `pack`; the first one is the end-of-text token)."""
        self.tokens, self.seed = tokens, seed
        self.batch_size, self.context_length = batch_size, context_length
        self.borders = np.flatnonzero(tokens == tokens[0])  # (number of stories + 1,)
        self.epoch, self.position = 0, 0
        self.order = self._shuffled()

    def _shuffled(self) -> np.ndarray:
        return np.random.default_rng((self.seed, self.epoch)).permutation(len(self.borders) - 1)

    @property
    def state(self) -> tuple[int, int]:
        """The epoch, and how many of its stories have been used."""
        return self.epoch, self.position

    @state.setter
    def state(self, state: tuple[int, int]) -> None:
        self.epoch, self.position = state
        self.order = self._shuffled()

    def _row(self) -> np.ndarray:
        """`<eot> story <eot> story ...`, cut off after T + 1 tokens."""
        parts, length = [self.tokens[:1]], 1
        while length <= self.context_length:
            if self.position == len(self.order):
                self.state = self.epoch + 1, 0
            start = self.borders[self.order[self.position]]
            end = self.borders[self.order[self.position] + 1]
            self.position += 1
            parts.append(self.tokens[start + 1 : end + 1])
            length += end - start
        return np.concatenate(parts)[: self.context_length + 1]

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        """The next batch: inputs and targets, both `(B, T)` int64."""
        rows = np.stack([self._row() for _ in range(self.batch_size)]).astype(np.int64)
        rows = torch.from_numpy(rows)  # (B, T + 1)
        return rows[:, :-1], rows[:, 1:]
