"""The scores to beat: n-gram models, which only count which token follows which."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch

from slm.batches import pack
from slm.evaluation import Evaluation, summarize
from slm.stories.cleaning import Stories
from slm.stories.files import as_texts
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.settings_checks import LARGEST


class NGram:
    """An n-gram model: it predicts a token from the `n - 1` before it, by counting.

    With n = 2 it is a bigram model, with n = 3 a trigram model. Where few examples were counted, it
    relies on fewer tokens before, by interpolated Kneser-Ney smoothing (Kneser & Ney 1995; Chen &
    Goodman 1999): `discount` is subtracted from every count, and the probability that this frees is
    distributed as the model of n - 1 predicts. That model does not count how often a token
    occurred, but after how many different tokens.

    Of what `slm.load_stories` gives, the training stories are counted. Raises ValueError without a
    story, for what is no text, for an `n` or a `discount` that makes no sense, and for a vocabulary
    of which so many runs cannot be told apart.
    """

    def __init__(
        self,
        stories: Sequence[str] | Stories,
        tokenizer: Tokenizer,
        n: int = 3,
        discount: float = 0.75,
    ):
        if not isinstance(n, Integral) or n not in (1, 2, 3, 4):
            raise ValueError(f"n must be 1, 2, 3 or 4, not {n!r}.")
        if not isinstance(discount, Real) or not 0 < discount < 1:
            raise ValueError(f"discount must be between 0 and 1, not {discount!r}.")
        if tokenizer.vocab_size ** int(n) > LARGEST:
            raise ValueError(
                f"Runs of {n} of {tokenizer.vocab_size:,} tokens have no number of their own in 64 "
                "bits: set n to less."
            )
        if isinstance(stories, Stories):
            stories = stories.train
        if isinstance(stories, str):
            raise ValueError("There are no stories to count: give a list of at least one.")
        self.tokenizer = tokenizer
        self.n = int(n)
        self.discount = discount
        self.counts = self._count(pack(as_texts(stories), tokenizer))

    def _count(self, ids: np.ndarray) -> list["_Counts"]:
        """The counts of all grams of 1, 2, ... n tokens, as Kneser-Ney smoothing wants them."""
        V = self.tokenizer.vocab_size
        grams, counts = np.unique(self._keys(self._grams(ids)), return_counts=True)
        by_length = []
        for length in range(self.n, 0, -1):
            by_length.append(_Counts.of(grams, counts, V))
            # Without its first token a gram is one of the next shorter length. Each *different*
            # gram that ends in it counts once.
            shorter = grams % V ** (length - 1)
            grams, counts = np.unique(shorter, return_counts=True)
        return by_length[::-1]

    def _grams(self, ids: np.ndarray) -> np.ndarray:
        """Each token after the first with the `n - 1` before it, `(N, n)`.

        No token sees the story before its own: end-of-text tokens stand in its place.
        """
        eot = self.tokenizer.eot_id
        padding = np.full(max(self.n - 2, 0), eot)
        padded = np.concatenate([padding, ids])
        if self.n == 1:
            padded = padded[1:]
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.n)
        grams = windows.astype(np.int64)  # (N, n), a copy that can be written to
        # From right to left: whatever stands before an end of text becomes one too.
        for column in range(self.n - 2, 0, -1):
            is_end = grams[:, column] == eot
            grams[is_end, column - 1] = eot
        return grams

    def _keys(self, grams: np.ndarray) -> np.ndarray:
        """One integer for each row of ids `(N, length)`: its digits in the base of V, `(N,)`."""
        length = grams.shape[1]
        powers = self.tokenizer.vocab_size ** np.arange(length)[::-1]
        return grams @ powers

    def probability(self, grams: np.ndarray) -> np.ndarray:
        """The probability of the last id of each row `(N, n)`, given the others in it: `(N,)`."""
        V = self.tokenizer.vocab_size
        probability = np.full(len(grams), 1 / V)  # before anything is counted, all are alike
        for length, counts in enumerate(self.counts, 1):
            keys = self._keys(grams[:, self.n - length :])
            contexts = keys // V
            count = _find(counts.grams, keys, counts.gram_counts)
            total = _find(counts.contexts, contexts, counts.context_counts)
            different = _find(counts.contexts, contexts, counts.different_tokens)
            discounted = np.maximum(count - self.discount, 0)
            freed = self.discount * different
            smoothed = (discounted + freed * probability) / np.maximum(total, 1)
            # A context that never came says nothing: the shorter one decides alone.
            probability = np.where(total > 0, smoothed, probability)
        return probability

    def next_token_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """Of every token after `ids`, which begin with the end of text: `(V,)`."""
        V = self.tokenizer.vocab_size
        last = self._grams(np.array([*ids, 0]))[-1]  # (n,), the 0 to be replaced by each token
        grams = np.tile(last, (V, 1))  # (V, n)
        grams[:, -1] = np.arange(V)
        return self.probability(grams)

    def evaluate(self, stories: Sequence[str] | Stories) -> Evaluation:
        """As `slm.evaluate` measures a transformer: the same tokens of the same stories."""
        if isinstance(stories, Stories):
            stories = stories.validation
        if not isinstance(stories, str):  # one text is no list
            stories = as_texts(stories)
        if not stories or isinstance(stories, str):
            raise ValueError("There are no stories to evaluate on: give a list of at least one.")
        eot = self.tokenizer.eot_id
        grams = []
        for story in stories:
            ids = [eot, *self.tokenizer.encode(story), eot]
            grams.append(self._grams(np.array(ids)))
        lengths = [len(rows) for rows in grams]
        nats = -np.log(self.probability(np.concatenate(grams)))
        return summarize(torch.from_numpy(nats).split(lengths), stories)


@dataclass(frozen=True)
class _Counts:
    """How often the grams of one length occurred, and their contexts: all but the last token.

    Grams and contexts are sorted integers, so that they can be searched.
    """

    grams: np.ndarray
    gram_counts: np.ndarray
    contexts: np.ndarray
    context_counts: np.ndarray  # the sum over all tokens that came after it
    different_tokens: np.ndarray  # and how many different ones these were

    @classmethod
    def of(cls, grams: np.ndarray, gram_counts: np.ndarray, vocab_size: int) -> "_Counts":
        contexts, index = np.unique(grams // vocab_size, return_inverse=True)
        context_counts = np.bincount(index, gram_counts)
        different_tokens = np.bincount(index)
        return cls(grams, gram_counts, contexts, context_counts, different_tokens)


def _find(keys: np.ndarray, wanted: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values of the wanted ones among sorted keys; 0 for those that are not there."""
    places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
