"""Stories become numbers: one long array, `<eot> story <eot> story <eot>`, cut into batches."""

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from slm.files import cache_folder, write
from slm.tokenizer import Tokenizer


def digest(stories: Sequence[str]) -> str:
    """A short fingerprint of some stories and their order."""
    return hashlib.sha256("\0".join(stories).encode("utf-8", "replace")).hexdigest()[:16]


def pack(stories: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """All stories as one array of token ids, in 16 bits each where the vocabulary allows, else 32.
    It is kept in the cache folder for next time, under a key of all that determined it. Raises
    ValueError where there is no story."""
    if not stories:
        raise ValueError("There are no stories to pack: give at least one.")
    path = cache_folder() / "tokens" / f"{tokenizer.digest}-{digest(stories)}.npy"
    if not path.exists():
        eot = [tokenizer.eot_id]
        rows = (np.array(tokenizer.encode(story) + eot, tokenizer.dtype) for story in stories)
        np.save(file := io.BytesIO(), np.concatenate([np.array(eot, tokenizer.dtype), *rows]))
        write(path, file.getbuffer())
    return np.load(path, allow_pickle=False)


class Batches:
    """An endless supply of `(x, y)` batches, `(B, T)` each, with `y` one token ahead of `x`.
    Every row begins where a story begins, so that no context is missing; more stories follow until
    it is full, and the last one is cut off. Each epoch shuffles the stories anew. `state` counts
    the stories taken; set it to go on from there."""

    def __init__(self, tokens: np.ndarray, *, batch_size: int, context_length: int, seed: int = 0):
        self.tokens, self.batch_size, self.context_length = tokens, batch_size, context_length
        self.seed, self.state, self._epoch = seed, 0, -1
        self._borders = np.flatnonzero(tokens == tokens[0])  # before each story, and after the last

    def _row(self) -> np.ndarray:
        parts, length, count = [self.tokens[:1]], 1, len(self._borders) - 1
        while length <= self.context_length:
            epoch, place = divmod(self.state, count)
            if epoch != self._epoch:
                shuffle = np.random.default_rng((self.seed, epoch)).permutation
                self._epoch, self._order = epoch, shuffle(count)
            start, end = self._borders[self._order[place] :][:2]
            parts.append(self.tokens[start + 1 : end + 1])  # the story and the end of text after it
            self.state, length = self.state + 1, length + len(parts[-1])
        return np.concatenate(parts)[: self.context_length + 1]

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        """The next batch: inputs and targets, both `(B, T)` int64."""
        rows = np.stack([self._row() for _ in range(self.batch_size)])  # (B, T + 1)
        rows = torch.from_numpy(rows.astype(np.int64))
        return rows[:, :-1], rows[:, 1:]
