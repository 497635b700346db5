"""The key-value cache: what was read already need not be computed again."""

import torch
from torch import Tensor

from slm.settings import ModelConfig


class KVCache:
    """The keys and values of tokens already read, so that each is computed only once. There is
    room for `context_length`, of the type and on the device of `like`; `length` are filled."""

    def __init__(self, config: ModelConfig, batch_size: int = 1, like: Tensor | None = None):
        like = torch.empty(0) if like is None else like
        shape = (batch_size, 2 * config.n_kv_heads, config.context_length, config.head_dim)
        self.layers = [like.new_zeros(shape) for _ in range(config.n_layers)]
        self.length = 0
        self.next_token = None  # a faster way to read one token: see slm/decoding.py

    def extend(self, layer: int, new: Tensor) -> tuple[Tensor, Tensor]:
        """Add a layer's new keys and values, one after the other `(B, 2 G, T, D)`; give back all
        keys and all values so far, `(B, G, S, D)` each."""
        end = self.length + new.shape[2]
        self.layers[layer].narrow(2, self.length, new.shape[2]).copy_(new)
        return self.layers[layer].narrow(2, 0, end).chunk(2, dim=1)
