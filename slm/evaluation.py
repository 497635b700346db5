"""Is it good? One score that compares models whatever their tokenizers: bits per byte."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from slm.model import Transformer, evaluating
from slm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts some stories."""

    nats_per_token: float  # mean cross-entropy: what training lowers
    bits_per_byte: float  # the same per byte of text, so that tokenizers compare
    tokens: int  # how many were predicted
    bytes: int  # the stories' UTF-8 bytes, and one for each one's end

    @property
    def perplexity(self) -> float:
        """Between how many equally likely tokens the model hesitates, on average."""
        return math.exp(self.nats_per_token)


def evaluate(
    model: Transformer, tokenizer: Tokenizer, stories: Sequence[str], *, batch_size: int = 16
) -> Evaluation:
    """Measure, in float32, how well a model predicts stories that it has not seen.
    Every story stands alone as `<eot> story <eot>`, in windows side by side where it is longer than
    the context. Bits per byte are all nats over ln 2, over the stories' UTF-8 bytes plus one for
    each end. Raises ValueError without a story, or where model and tokenizer do not fit."""
    if not stories:
        raise ValueError("There are no stories to evaluate on: give at least one.")
    model.check_tokenizer(tokenizer)
    rows, T, eot = [], model.config.context_length, tokenizer.eot_id
    for story in stories:
        ids = torch.tensor([eot, *tokenizer.encode(story), eot])
        # A row's last id is the next one's first: every id after the first is predicted once.
        rows += [ids[start : start + T + 1] for start in range(0, len(ids) - 1, T)]
    rows.sort(key=len)
    nats, device = 0.0, model.model.embed_tokens.weight.device
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]  # of about equal length: little padding
            x = nn.utils.rnn.pad_sequence([row[:-1] for row in batch], True).to(device)  # (B, T)
            y = nn.utils.rnn.pad_sequence([row[1:] for row in batch], True, -100).to(device)
            nats += F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum").item()
    tokens = sum(len(row) - 1 for row in rows)
    size = len(stories) + len("".join(stories).encode("utf-8", "replace"))
    return Evaluation(nats / tokens, nats / math.log(2) / size, tokens, size)
