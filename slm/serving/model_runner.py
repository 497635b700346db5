"""The model as continuous batching uses it: one row of a shared key-value cache per sequence."""

import torch
from torch import Tensor

from slm.generation.decoder import NextTokens
from slm.model.kv_cache import KVCache
from slm.model.transformer import Transformer, evaluating


class ModelRunner:
    """Runs the model for the rows of a batch, which may have come differently far. The rows in use
    are always the first ones: 0, 1, 2 ..."""

    def __init__(self, model: Transformer, max_rows: int):
        self.model = model
        self.context_length = model.config.context_length
        self._decode = NextTokens(model)
        self._cache = KVCache(model.config, max_rows, model.model.embed_tokens.weight)

    @property
    def device(self) -> torch.device:
        """Where the model and its cache are."""
        return self._cache.layers[0].device

    def prefill(self, row: int, ids: list[int]) -> Tensor:
        """Read several tokens at once into a row: the logits `(T, V)` after each of them."""
        own = KVCache(self.model.config, 1, self._cache.layers[0])
        with evaluating(self.model):
            logits = self.model(torch.tensor([ids], device=self.device), own)  # (1, T, V)
        for shared, layer in zip(self._cache.layers, own.layers, strict=True):
            shared[row, :, : len(ids)] = layer[0, :, : len(ids)]
        return logits[0]

    def decode_step(self, ids: list[int], lengths: list[int]) -> Tensor:
        """Read one token more in each of the first B rows, which hold `lengths` so far: the logits
        `(B, V)` of what follows."""
        return self._decode(
            torch.tensor(ids, device=self.device),
            torch.tensor(lengths, device=self.device),
            self._cache.layers,
        )

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one row of the cache to another."""
        for layer in self._cache.layers:
            layer[target, :, :length] = layer[source, :, :length]
