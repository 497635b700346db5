"""Writing stories: one generator of tokens, on which printing, batches and the web build."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from slm.decoding import NextToken
from slm.model import KVCache, Transformer, evaluating
from slm.settings import check, split_settings
from slm.tokenizer import Tokenizer


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is chosen; ValueError, by name, for a value that makes no sense."""

    max_new_tokens: int = 400  # the story is cut off after so many
    temperature: float = 0.8  # below 1 plays safe, above 1 takes risks; 0: always the likeliest
    top_k: int | None = None  # keep the k likeliest tokens
    top_p: float | None = None  # keep the fewest likeliest tokens that reach this probability
    min_p: float | None = 0.05  # keep tokens at least this share as likely as the likeliest
    repetition_penalty: float = 1.0  # above 1: tokens that have occurred become less likely
    seed: int | None = None  # the same seed writes the same story; None: another each time

    def __post_init__(self):
        check(self, "max_new_tokens", "top_k", whole=True, low=1)
        check(self, "temperature", low=0)
        check(self, "top_p", "min_p", low=0, high=1)
        check(self, "repetition_penalty")
        check(self, "seed", whole=True, low=0)


def next_token_probabilities(
    logits: Tensor, sampling: SamplingConfig, previous: Tensor | None = None
) -> Tensor:
    """Logits `(B, V)` of the next token to the probabilities `(B, V)` that it is drawn from.
    `previous` `(B, S)` are the ids that the repetition penalty (Keskar et al. 2019, CTRL,
    arXiv:1909.05858) holds down. Then temperature, top-k (Fan et al. 2018, arXiv:1805.04833), top-p
    (Holtzman et al. 2020, arXiv:1904.09751) and min-p (Nguyen et al. 2024, arXiv:2407.01082) apply,
    in this order, each to what the one before it left."""
    logits = logits.float()
    if sampling.repetition_penalty != 1 and previous is not None:
        seen, penalty = logits.gather(1, previous), sampling.repetition_penalty
        seen = torch.where(seen > 0, seen / penalty, seen * penalty)
        logits = logits.scatter(1, previous, seen)
    if sampling.temperature < 1e-6:
        return torch.zeros_like(logits).scatter(1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits / sampling.temperature
    if sampling.top_k and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p is not None:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        dropped = probabilities.cumsum(-1) - probabilities >= sampling.top_p
        dropped[:, 0] = False  # the likeliest always stays
        logits = logits.masked_fill(dropped.gather(1, order.argsort()), float("-inf"))
    if sampling.min_p:  # a share of probabilities is a distance of logits
        least = logits.amax(-1, keepdim=True) + math.log(sampling.min_p)
        logits = logits.masked_fill(logits < least, float("-inf"))
    return logits.softmax(-1)


def draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """One id for each row of probabilities `(B, V)`: the one in whose share of the whole a random
    number falls. Ten times as fast as `torch.multinomial`, which draws one for each of the V."""
    borders = probabilities.cpu().double().cumsum(-1)  # (B, V)
    at = torch.rand(len(borders), 1, dtype=torch.float64, generator=generator) * borders[:, -1:]
    return torch.searchsorted(borders, at, right=True).squeeze(1)  # (B,)


def generate_tokens(
    model: Transformer, ids: Tensor, sampling: SamplingConfig, eot_id: int
) -> Iterator[Tensor]:
    """Continue B rows of ids `(B, T)`, yielding one new id for each row, `(B,)`, at a time, until
    every row has written `eot_id` (one that has goes on yielding it), at most `max_new_tokens`
    times. What does not fit the context is forgotten: of a longer prompt the last `context_length`
    tokens are read, and where the context is full its newer half is read again."""
    context_length, weight = model.config.context_length, model.model.embed_tokens.weight
    generator = torch.Generator()
    generator.seed() if sampling.seed is None else generator.manual_seed(sampling.seed)
    ids = new = ids[:, -context_length:].to(weight.device)
    cache = KVCache(model.config, len(ids), weight)
    cache.next_token = NextToken(model)
    first = int(ids[0, 0] == eot_id)  # one story's end does not put off the next's
    plain = sampling.temperature < 1e-6 and sampling.repetition_penalty == 1
    stopped = torch.zeros(len(ids), dtype=torch.bool)
    for _ in range(sampling.max_new_tokens):
        if cache.length + new.shape[1] > context_length:
            new, cache.length = ids[:, -(context_length // 2 or 1) :], 0
        with evaluating(model):
            logits = model(new, cache)[:, -1]  # (B, V)
        if plain:
            drawn = logits.argmax(-1).cpu()  # (B,)
        else:
            drawn = draw(next_token_probabilities(logits, sampling, ids[:, first:]), generator)
        drawn = drawn.masked_fill(stopped, eot_id)
        stopped = drawn == eot_id
        yield drawn
        if stopped.all():
            return
        new = drawn.unsqueeze(1).to(weight.device)  # (B, 1)
        ids = torch.cat((ids, new), dim=1)


def _draw(
    model: Transformer, tokenizer: Tokenizer, prompt: str, settings: dict, rows: int = 1
) -> Iterator[Tensor]:
    """`generate_tokens` for `rows` stories that begin, after an end-of-text token as in training,
    with the prompt. What is wrong is refused at the call, before anything is drawn."""
    sampling = SamplingConfig(**split_settings(settings, SamplingConfig)[0])
    if not isinstance(prompt, str):
        raise ValueError(f"The prompt must be a text, not {prompt!r}; an empty one is welcome.")
    model.check_tokenizer(tokenizer)
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(prompt)]] * rows)  # (B, T)
    return generate_tokens(model, ids, sampling, tokenizer.eot_id)


def stream(model: Transformer, tokenizer: Tokenizer, prompt: str = "", **settings) -> Iterator[str]:
    """Write one story, yielding its text piece by piece: first the prompt, then what follows.
    `settings` are fields of `SamplingConfig`. Joined, the pieces are what `generate` gives; none
    holds half a character. Raises ValueError, at the call, for a setting that makes no sense."""
    drawn = (int(new) for new in _draw(model, tokenizer, prompt, settings))
    text = tokenizer.decode_stream(id for id in drawn if id != tokenizer.eot_id)
    return (piece for piece in chain([prompt], text) if piece)


def generate(
    model: Transformer, tokenizer: Tokenizer, prompt: str = "", *, n: int | None = None, **settings
) -> str | list[str]:
    """Write a story that begins with `prompt`; with `n`, a list of n stories written side by side.
    `settings` are fields of `SamplingConfig`. Raises ValueError for one that makes no sense."""
    if n is None:
        return "".join(stream(model, tokenizer, prompt, **settings))
    if type(n) is not int or n < 1:
        raise ValueError(f"n must be a whole number from 1 up, not {n!r}.")
    rows = torch.stack(list(_draw(model, tokenizer, prompt, settings, n)), 1).tolist()
    ends = [row.index(tokenizer.eot_id) if tokenizer.eot_id in row else None for row in rows]
    return [prompt + tokenizer.decode(row[:end]) for row, end in zip(rows, ends, strict=True)]
