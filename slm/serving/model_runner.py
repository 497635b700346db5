"""The model as continuous batching uses it: each sequence has a row of a shared key-value cache,
which grows with use."""

import logging
from dataclasses import replace

import torch
from torch import Tensor

from slm.generation.decoder import NextTokens
from slm.model.kv_cache import KVCache
from slm.model.transformer import Transformer, evaluating

logger = logging.getLogger("slm.serving")
FIRST_LENGTH = 64  # tokens that a row has room for at first


class CacheTooSmall(Exception):
    """A sequence needs more of the key-value cache than there may ever be."""


class ModelRunner:
    """Runs the model for the rows of a batch, which may have come differently far. The rows in use
    are always the first ones: 0, 1, 2 ... The cache takes no more than `max_cache_bytes`."""

    def __init__(self, model: Transformer, max_rows: int, max_cache_bytes: float):
        self.context_length = model.config.context_length
        self.lengths: list[int] = []  # of each row, how many tokens the cache holds
        self._model = model
        self._decode = NextTokens(model)
        self._max_rows = max_rows
        self._max_bytes = max_cache_bytes
        self._weight = model.model.embed_tokens.weight
        self._reserved = (0, 0)  # rows, and tokens of each, that the batch may come to need
        self._warned = False
        self.release()

    def cache_bytes(self, rows: int, length: int) -> int:
        """The size of a cache of so many rows with room for so many tokens each."""
        config = self._model.config
        numbers_per_token = config.n_layers * 2 * config.n_kv_heads * config.head_dim
        return rows * length * numbers_per_token * self._weight.element_size()

    def check_fits(self, length: int) -> None:
        """Raise CacheTooSmall for a sequence that does not fit, even alone."""
        size = self.cache_bytes(1, length)
        if size > self._max_bytes:
            raise CacheTooSmall(
                f"The key-value cache may take {self._max_bytes / 1e6:,.2f} MB, and {length:,} "
                f"tokens need {size / 1e6:,.2f}: ask for fewer tokens, or give the server more "
                "(cache_megabytes)."
            )

    def reserve(self, max_lengths: list[int]) -> bool:
        """Make sure that rows which may become so long will fit together. False where they do not:
        then something has to leave first."""
        wanted = (len(max_lengths), max(max_lengths))
        if self.cache_bytes(*wanted) <= self._max_bytes:
            self._reserved = wanted
            return True
        if not self._warned:
            self._warned = True
            logger.warning(
                "The key-value cache has reached its bound of %.0f MB: %d stories are written at "
                "once, and others wait. A larger bound (cache_megabytes) lets more be written.",
                self._max_bytes / 1e6,
                len(max_lengths) - 1,
            )
        return False

    def add_row(self, ids: list[int]) -> Tensor:
        """Prefill: read a sequence's tokens into a new row. The logits `(T, V)` after each."""
        ids = ids[-self.context_length :]
        logits, own = self._prefill(ids)
        self._grow(len(self.lengths) + 1, len(ids))
        self.lengths.append(len(ids))
        self._store(len(self.lengths) - 1, own)
        return logits

    def remove_row(self, row: int) -> None:
        """Free a row: the last one moves there."""
        length = self.lengths.pop()
        if row < len(self.lengths):
            for layer in self._layers:
                layer[row, :, :length] = layer[len(self.lengths), :, :length]
            self.lengths[row] = length

    def step(self, rows: list[list[int]]) -> Tensor:
        """One decode step: given all ids of each row, of which the cache holds all but the newest,
        the logits `(B, V)` of what follows."""
        self._shift_full_rows(rows)
        self._grow(len(rows), max(self.lengths) + 1)
        logits = self._decode(
            torch.tensor([ids[-1] for ids in rows], device=self._weight.device),
            torch.tensor(self.lengths, device=self._weight.device),
            self._layers,
        )
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    def release(self) -> None:
        """Give the memory of the cache back. There must be no rows."""
        self._capacity = (0, 0)  # rows, and tokens of each
        self._layers: list[Tensor] = []  # (rows, 2 G, T, D) each

    def _prefill(self, ids: list[int]) -> tuple[Tensor, KVCache]:
        """The logits `(T, V)` after each of the tokens, and a cache of its own that holds them."""
        own = self._new_cache(1, len(ids))
        with evaluating(self._model):
            logits = self._model(torch.tensor([ids], device=self._weight.device), own)  # (1, T, V)
        return logits[0], own

    def _store(self, row: int, own: KVCache) -> None:
        for shared, layer in zip(self._layers, own.layers, strict=True):
            shared[row, :, : layer.shape[2]] = layer[0]

    def _shift_full_rows(self, rows: list[list[int]]) -> None:
        """Where a row fills the context, forget its older half and read the newer half again, as
        `slm.generate` does."""
        half = max(self.context_length // 2, 1)
        for row, ids in enumerate(rows):
            if self.lengths[row] == self.context_length:
                _, own = self._prefill(ids[-half:])
                self._store(row, own)
                self.lengths[row] = half - 1  # the newest token is read by the step itself

    def _grow(self, rows: int, length: int) -> None:
        """Make room: for twice as much each time, so that it is not done often; where that would
        be too much, for what is reserved."""
        if rows <= self._capacity[0] and length <= self._capacity[1]:
            return
        new_rows = min(max(self._capacity[0], _next_power_of_two(rows)), self._max_rows)
        new_length = max(self._capacity[1], _next_power_of_two(length), FIRST_LENGTH)
        new_length = min(new_length, self.context_length)
        if self.cache_bytes(new_rows, new_length) > self._max_bytes:
            new_rows, new_length = self._reserved
        old_layers = self._layers
        self._layers = self._new_cache(new_rows, new_length).layers
        self._capacity = (new_rows, new_length)
        rows_in_use = len(self.lengths)
        if rows_in_use:
            longest = max(self.lengths)
            for new, old in zip(self._layers, old_layers, strict=True):
                new[:rows_in_use, :, :longest] = old[:rows_in_use, :, :longest]

    def _new_cache(self, rows: int, length: int) -> KVCache:
        config = replace(self._model.config, context_length=length)  # room for no more than that
        return KVCache(config, rows, self._weight)


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
