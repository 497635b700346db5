"""The scores to beat: models that only count which token follows which (optional)."""

from collections.abc import Sequence

import numpy as np
import torch

from slm.batches import pack
from slm.evaluation import Evaluation, summarize
from slm.tokenizer.byte_pair import Tokenizer


class NGram:
    """Predicts a token from the `n - 1` before it, by how often they were seen together: with n = 2
    a bigram, with n = 3 a trigram model. Where that was rare, it backs off to fewer tokens, by
    interpolated Kneser-Ney smoothing (Kneser & Ney 1995; Chen & Goodman 1999): `discount` is taken
    from every count, and what that frees is given out by the model of one token less. Of that
    model, the counts are not how often a token was seen, but after how many different ones.
    Raises ValueError without a story, or for an `n` or a `discount` that makes no sense."""

    def __init__(
        self, stories: Sequence[str], tokenizer: Tokenizer, n: int = 3, discount: float = 0.75
    ):
        if n not in (1, 2, 3, 4):
            raise ValueError(f"n must be 1, 2, 3 or 4, not {n!r}.")
        if not 0 < discount < 1:
            raise ValueError(f"discount must be between 0 and 1, not {discount!r}.")
        self.tokenizer, self.n, self.discount, self.tables = tokenizer, n, discount, []
        V, keys = tokenizer.vocab_size, self._keys(self._grams(pack(stories, tokenizer)))
        keys, counts = np.unique(keys, return_counts=True)
        for length in range(n, 0, -1):
            contexts, which = np.unique(keys // V, return_inverse=True)
            seen, kinds = np.bincount(which, counts), np.bincount(which)  # in all, and how many
            self.tables.insert(0, (keys, counts, contexts, seen, kinds))
            keys, counts = np.unique(keys % V ** (length - 1), return_counts=True)

    def _grams(self, ids: np.ndarray) -> np.ndarray:
        """Each token after the first with the `n - 1` before it, `(N, n)`. Of the story before its
        own none sees anything: there, all are ends of text."""
        eot = self.tokenizer.eot_id
        ids = np.concatenate([np.full(max(self.n - 2, 0), eot), ids])
        rows = np.lib.stride_tricks.sliding_window_view(ids[self.n == 1 :], self.n).astype(np.int64)
        for place in range(self.n - 2, 0, -1):
            rows[rows[:, place] == eot, place - 1] = eot
        return rows

    def _keys(self, grams: np.ndarray) -> np.ndarray:
        """One number for each row of ids `(N, length)`: its digits in the base of V."""
        powers = self.tokenizer.vocab_size ** np.arange(grams.shape[1])[::-1]
        return grams @ powers  # (N,)

    def probability(self, grams: np.ndarray) -> np.ndarray:
        """Of the last id of each row `(N, n)`, after the others in it: `(N,)`."""
        V = self.tokenizer.vocab_size
        chance = np.full(len(grams), 1 / V)
        for length, (keys, counts, contexts, seen, kinds) in enumerate(self.tables, 1):
            key = self._keys(grams[:, self.n - length :])
            count = _find(keys, key, counts)
            seen, kinds = (_find(contexts, key // V, values) for values in (seen, kinds))
            spread = (np.maximum(count - self.discount, 0) + self.discount * kinds * chance) / (
                np.maximum(seen, 1)
            )
            chance = np.where(seen > 0, spread, chance)
        return chance

    def next_token_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """Of every token after `ids`, which begin with the end of text: `(V,)`."""
        last = self._grams(np.array([*ids, 0]))[-1]
        grams = np.tile(last, (self.tokenizer.vocab_size, 1))  # (V, n)
        grams[:, -1] = np.arange(self.tokenizer.vocab_size)
        return self.probability(grams)

    def evaluate(self, stories: Sequence[str]) -> Evaluation:
        """As `slm.evaluate` measures a transformer: the same tokens of the same stories."""
        if not stories or isinstance(stories, str):
            raise ValueError("There are no stories to evaluate on: give a list of at least one.")
        encode, eot = self.tokenizer.encode, self.tokenizer.eot_id
        grams = [self._grams(np.array([eot, *encode(story), eot])) for story in stories]
        nats = torch.from_numpy(-np.log(self.probability(np.concatenate(grams))))
        return summarize(nats.split([len(rows) for rows in grams]), stories)


def _find(keys: np.ndarray, wanted: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values of the wanted ones among sorted keys; 0 for those that are not there."""
    places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
