"""Is it good? One score that compares models whatever their tokenizers: bits per byte."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slm.model.transformer import Transformer, evaluating
from slm.tokenizer.byte_pair import Tokenizer


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts some stories."""

    nats_per_token: float  # mean cross-entropy: what training lowers
    bits_per_byte: float  # the same per byte of text, so that tokenizers compare
    tokens: int  # how many were predicted
    bytes: int  # the stories' UTF-8 bytes, and one for each one's end
    nats_by_position: tuple[float, ...] = field(repr=False)  # of a story's 1st token, 2nd, ...
    stories_by_position: tuple[int, ...] = field(repr=False)  # how many stories go so far

    @property
    def perplexity(self) -> float:
        """Between how many equally likely tokens the model hesitates, on average."""
        return math.exp(self.nats_per_token)


def evaluate(
    model: Transformer, tokenizer: Tokenizer, stories: Sequence[str], *, batch_size: int = 16
) -> Evaluation:
    """Measure, in float32, how well a model predicts stories that it has not seen: `summarize` of
    `token_nats`. Raises ValueError without a story, or where model and tokenizer do not fit."""
    return summarize(token_nats(model, tokenizer, stories, batch_size=batch_size), stories)


def token_nats(
    model: Transformer, tokenizer: Tokenizer, stories: Sequence[str], *, batch_size: int = 16
) -> list[Tensor]:
    """For each story the cross-entropies, in nats, of its tokens and of its end, `(tokens + 1,)`.
    Every story stands alone as `<eot> story <eot>`, in windows side by side where it is longer than
    the context. Raises ValueError as `evaluate` does."""
    if not stories or isinstance(stories, str):
        raise ValueError("There are no stories to evaluate on: give a list of at least one.")
    model.check_tokenizer(tokenizer)
    rows, T, eot = [], model.config.context_length, tokenizer.eot_id
    for number, story in enumerate(stories):
        ids = torch.tensor([tokenizer.bos_id, *tokenizer.encode(story), eot])
        # A row's last id is the next one's first: every id after the first is predicted once.
        rows += [(number, ids[at : at + T + 1]) for at in range(0, len(ids) - 1, T)]
    order = sorted(range(len(rows)), key=lambda row: len(rows[row][1]))
    device, parts = model.model.embed_tokens.weight.device, {}
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]  # of about equal length: little padding
            ids = [rows[row][1] for row in some]
            x = nn.utils.rnn.pad_sequence([row[:-1] for row in ids], True).to(device)  # (B, T)
            y = nn.utils.rnn.pad_sequence([row[1:] for row in ids], True).to(device)
            nats = F.cross_entropy(model(x).mT, y, reduction="none").cpu()  # (B, T)
            parts |= {row: nats[i, : len(ids[i]) - 1] for i, row in enumerate(some)}
    pieces = [[] for _ in stories]
    for row, (number, _) in enumerate(rows):
        pieces[number].append(parts[row])
    return [torch.cat(story) for story in pieces]


def summarize(nats: Sequence[Tensor], stories: Sequence[str]) -> Evaluation:
    """The evaluation that the stories' tokens' cross-entropies add up to. Bits per byte are all
    nats over ln 2, over the stories' UTF-8 bytes plus one for each end."""
    total, tokens = sum(part.double().sum().item() for part in nats), sum(map(len, nats))
    size = len(stories) + len("".join(stories).encode("utf-8", "replace"))
    table = nn.utils.rnn.pad_sequence(nats, True, math.nan)  # (stories, longest)
    means, counts = table.nanmean(0).tolist(), (~table.isnan()).sum(0).tolist()
    score = (total / tokens, total / math.log(2) / size, tokens, size)
    return Evaluation(*score, tuple(means), tuple(counts))
