"""The model as continuous batching uses it: each sequence has a row of a shared key-value cache,
which grows with use."""

import logging

from torch import Tensor

from slm.generation.decoder import IncrementalDecoder
from slm.model.transformer import Transformer

logger = logging.getLogger("slm.serving")
FIRST_LENGTH = 64  # tokens that a row has room for at first


class CacheTooSmall(Exception):
    """A sequence needs more of the key-value cache than there may ever be."""


class ModelRunner:
    """Runs the model for the rows of a batch, which may have come differently far. The rows in use
    are always the first ones: 0, 1, 2 ... The cache takes no more than `max_cache_bytes`."""

    def __init__(self, model: Transformer, max_rows: int, max_cache_bytes: float):
        self.context_length = model.config.context_length
        self._decoder = IncrementalDecoder(model)
        self._cache = self._decoder.new_cache(0)
        self._max_rows = max_rows
        self._max_bytes = max_cache_bytes
        self._reserved = (0, 0)  # rows, and tokens of each, that the batch may come to need
        self._warned = False
        self.release()  # until the first sequence comes, the cache has no room at all

    def cache_bytes(self, rows: int, length: int) -> int:
        """The size of a cache of so many rows with room for so many tokens each."""
        return rows * length * self._cache.bytes_per_token

    @property
    def allocated_bytes(self) -> int:
        """The size of the cache as it is."""
        return self.cache_bytes(*self._cache.capacity)

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

    @property
    def lengths(self) -> list[int]:
        """Of each row, how many tokens the cache holds."""
        return self._cache.lengths

    def add_row(self, ids: list[int]) -> Tensor:
        """Prefill: read a sequence's tokens into a new row. The logits `(T, V)` after each."""
        row = len(self.lengths)
        self._grow(row + 1, min(len(ids), self.context_length))
        [logits] = self._decoder.read_rows([row], [ids], self._cache)
        return logits

    def remove_row(self, row: int) -> None:
        """Free a row: the last one moves there."""
        self._cache.remove_row(row)

    def step(self, rows: list[list[int]]) -> Tensor:
        """One decode step: given all ids of each row, of which the cache holds all but the newest,
        the logits `(B, V)` of what follows."""
        self._grow(len(rows), min(max(self.lengths) + 1, self.context_length))
        return self._decoder.step(rows, self._cache)

    def release(self) -> None:
        """Give the memory of the cache back. There must be no rows."""
        self._cache.resize(0, 0)

    def _grow(self, rows: int, length: int) -> None:
        """Make room: for twice as much each time, so that it is not done often; where that would
        be too much, for what is reserved."""
        old_rows, old_length = self._cache.capacity
        if rows <= old_rows and length <= old_length:
            return
        new_rows = min(max(old_rows, _next_power_of_two(rows)), self._max_rows)
        new_length = max(old_length, _next_power_of_two(length), FIRST_LENGTH)
        new_length = min(new_length, self.context_length)
        if self.cache_bytes(new_rows, new_length) > self._max_bytes:
            new_rows, new_length = self._reserved
        self._cache.resize(new_rows, new_length)


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
