"""Stories become numbers: one long array, `<eot> story <eot> story <eot>`, cut into batches."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np
import torch
from tqdm import tqdm

from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.files import cache_folder, write


def digest(stories: Sequence[str]) -> str:
    """A short fingerprint of some stories and their order."""
    sha = hashlib.sha256()
    for i, story in enumerate(stories):
        sha.update(("\0" * (i > 0) + story).encode("utf-8", "replace"))
    return sha.hexdigest()[:16]


def pack(stories: Sequence[str], tokenizer: Tokenizer, in_memory: int = 2**29) -> np.ndarray:
    """All stories as one array of token ids, in 16 bits each where the vocabulary allows, else 32.
    It is kept in the cache folder for next time, under a key of all that determined it; if it has
    more than `in_memory` bytes, it is a read-only memory map. Raises ValueError without a story."""
    if not stories:
        raise ValueError("There are no stories to pack: give at least one.")
    path = cache_folder() / "tokens" / f"{tokenizer.digest}-{digest(stories)}.bin"
    if not path.exists():  # an empty story first: it is nothing but the end of text after it
        rest = chain([""], tqdm(stories, "Packing stories", leave=False, file=sys.stdout, delay=2))
        write(path, iter(lambda: tokenizer.encode_many([*islice(rest, 100)]).tobytes(), b""))
    large = path.stat().st_size > in_memory
    return np.memmap(path, tokenizer.dtype, "r") if large else np.fromfile(path, tokenizer.dtype)


class Batches(Iterator):
    """An endless supply of `(x, y)` batches, `(B, T)` each, with `y` one token ahead of `x`. A row
    begins where a story begins, so that no context is missing; more follow until it is full, the
    last one cut off. Each epoch shuffles the stories. `state` counts those taken: set it to go on.
    Of `world_size` processes, each draws all rows and gives its share, `rows[rank::world_size]`."""

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
        self.tokens, self.batch_size, self.context_length = tokens, batch_size, context_length
        self.seed, self.state, self._order, self._share = seed, 0, {}, slice(rank, None, world_size)
        at = range(0, len(tokens), n := 2**24)  # in pieces, since a memory map may be large
        self._borders = np.hstack([i + np.flatnonzero(tokens[i : i + n] == tokens[0]) for i in at])

    def _row(self) -> np.ndarray:
        parts, length, count = [self.tokens[:1]], 1, len(self._borders) - 1
        while length <= self.context_length:
            epoch, place = divmod(self.state, count)
            if epoch not in self._order:
                self._order = {epoch: np.random.default_rng((self.seed, epoch)).permutation(count)}
            start, end = self._borders[self._order[epoch][place] :][:2]
            parts.append(self.tokens[start + 1 : end + 1])  # the story and the end of text after it
            self.state, length = self.state + 1, length + len(parts[-1])
        return np.concatenate(parts, dtype=np.int64)[: self.context_length + 1]

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The next batch, or the share of it: inputs and targets, both `(B, T)` int64."""
        rows = np.stack([self._row() for _ in range(self.batch_size)])[self._share]  # (B, T + 1)
        return torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])
