"""The key-value cache: keys and values of earlier tokens are stored, not computed again.

Shapes: B rows (one story each), G heads of keys and as many of values, S tokens read so far,
D numbers per head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from slm.settings import ModelConfig


class KVCache:
    """Keys and values of all tokens that a batch of rows has read, layer by layer.

    `layers` holds one tensor `(rows, 2 G, tokens, D)` per layer: first the heads of keys, then
    those of values. Row i has read `lengths[i]` tokens; the memory after them holds nothing valid.
    Fewer rows may be in use than there is room for: those in use are always the first ones.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int = 1,
        like: Tensor | None = None,
        max_tokens: int | None = None,
    ):
        """Make an empty cache of `batch_size` rows with room for `max_tokens` tokens each.

        By default there is room for the model's `context_length`. The dtype and the device are
        those of `like`.
        """
        like = torch.empty(0) if like is None else like
        max_tokens = config.context_length if max_tokens is None else max_tokens
        shape = (batch_size, 2 * config.n_kv_heads, max_tokens, config.head_dim)
        self.layers = [like.new_zeros(shape) for _ in range(config.n_layers)]
        self.lengths = [0] * batch_size

    @property
    def same_length(self) -> bool:
        """Whether all rows have read the same number of tokens."""
        return self.lengths.count(self.lengths[0]) == len(self.lengths)

    @property
    def length(self) -> int:
        """How many tokens each row has read. Raises ValueError where rows differ."""
        if not self.same_length:
            raise ValueError(f"The rows of this cache differ in length: {self.lengths}.")
        return self.lengths[0]

    @property
    def capacity(self) -> tuple[int, int]:
        """How many rows there is room for, and how many tokens in each row."""
        rows, _, tokens, _ = self.layers[0].shape
        return rows, tokens

    @property
    def bytes_per_token(self) -> int:
        """The bytes that one token of one row takes in all layers together."""
        _, heads, _, head_dim = self.layers[0].shape
        return len(self.layers) * heads * head_dim * self.layers[0].element_size()

    def clear(self) -> None:
        """Take all rows out of use. Their memory stays allocated."""
        self.lengths = []

    def resize(self, rows: int, tokens: int) -> None:
        """Change the capacity, to no less than what is in use; the contents stay."""
        rows_in_use = len(self.lengths)
        longest = max(self.lengths, default=0)
        for number, old in enumerate(self.layers):
            new = old.new_zeros(rows, old.shape[1], tokens, old.shape[3])
            new[:rows_in_use, :, :longest] = old[:rows_in_use, :, :longest]
            self.layers[number] = new

    def advance(self, tokens: int) -> None:
        """Add `tokens` to the length of each row, after all layers have been extended by them."""
        self.lengths = [length + tokens for length in self.lengths]

    def extend(
        self, layer: int, new: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values; return all of its keys and all of its values.

        The new ones, `(B, 2 G, T, D)`, are stored after those that the rows have; the results are
        `(B, G, S, D)` each. Where rows differ in length, T is 1 and `positions` `(B,)` are the
        rows' lengths; S is then that of the longest row, and the caller masks the rest of the
        shorter ones.
        """
        # This runs for every layer of every step: `narrow` is a slice that takes half the time.
        stored = self.layers[layer]  # (rows, 2 G, capacity, D)
        if len(new) < len(stored):
            stored = stored.narrow(0, 0, len(new))  # the rows in use, (B, 2 G, capacity, D)
        if positions is None:
            start = self.lengths[0]
            end = start + new.shape[2]
            stored.narrow(2, start, new.shape[2]).copy_(new)
        else:
            end = max(self.lengths) + 1
            rows = torch.arange(len(new), device=new.device)
            stored[rows, :, positions] = new.squeeze(2)
        keys, values = stored.narrow(2, 0, end).chunk(2, dim=1)  # (B, G, S, D) each
        return keys, values

    def set_rows(self, rows: Sequence[int], other: "KVCache", lengths: Sequence[int]) -> None:
        """Copy the first `lengths[i]` tokens of row i of `other` into `rows[i]`, for each i.

        They replace what the row held. A row after the last one in use is added.
        """
        longest = max(lengths)
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine[rows, :, :longest] = theirs[:, :, :longest]
        for row, length in zip(rows, lengths, strict=True):
            self.lengths[row : row + 1] = [length]

    def truncate(self, row: int, length: int) -> None:
        """Forget the tokens of a row after the first `length`."""
        self.lengths[row] = length

    def remove_row(self, row: int) -> None:
        """Forget a row. The last row moves to its place, so that no gap is left."""
        last = len(self.lengths) - 1
        length = self.lengths[last]
        if row < last:
            for layer in self.layers:
                layer[row, :, :length] = layer[last, :, :length]
            self.lengths[row] = length
        self.lengths.pop()
