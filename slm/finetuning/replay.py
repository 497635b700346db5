"""Replay: ordinary stories in every batch, so that the model does not forget how to write them."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from slm.batches import Batches, pack
from slm.settings import FineTuneConfig
from slm.tokenizer.byte_pair import Tokenizer


class ReplayBatches(Iterator):
    """An endless supply of `(inputs, targets)` batches, `(B, T)` each, of both kinds of stories.

    The upper rows are of your own stories, and the lower ones, a share `config.replay` of all, of
    ordinary stories.

    `steps_per_epoch` is how many batches it takes to read all of your own stories once.
    """

    def __init__(
        self,
        own: Sequence[str],
        ordinary: Sequence[str],
        tokenizer: Tokenizer,
        context_length: int,
        config: FineTuneConfig,
    ):
        replayed_rows = round(config.batch_size * config.replay)
        replayed_rows = min(replayed_rows, config.batch_size - 1)  # one row at least is your own
        own_rows = config.batch_size - replayed_rows
        tokens = pack(own, tokenizer)
        settings = {
            "context_length": context_length,
            "seed": config.seed,
            "bos_id": tokenizer.bos_id,
        }
        own_batches = Batches(tokens, batch_size=own_rows, **settings)
        self.steps_per_epoch = math.ceil(own_batches.tokens_per_epoch / (own_rows * context_length))
        self._sources = [own_batches]
        if replayed_rows:
            tokens = pack(ordinary, tokenizer)
            self._sources.append(Batches(tokens, batch_size=replayed_rows, **settings))

    def __next__(self) -> tuple[Tensor, Tensor]:
        """The next batch: inputs and targets, both `(B, T)` int64."""
        batches = [next(source) for source in self._sources]
        inputs = torch.cat([inputs for inputs, _ in batches])
        targets = torch.cat([targets for _, targets in batches])
        return inputs, targets


def micro_batches(batches: Iterator[tuple[Tensor, Tensor]], rows: int) -> Iterator:
    """The same batches in parts of at most `rows` rows, for what does not fit into memory."""
    for inputs, targets in batches:
        for start in range(0, len(inputs), rows):
            yield inputs[start : start + rows], targets[start : start + rows]
