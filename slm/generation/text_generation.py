"""Writing stories: one generator of tokens, on which printing, batches and the web build."""

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from slm.generation.decoder import NextToken
from slm.generation.sampling import draw, next_token_probabilities
from slm.model.kv_cache import KVCache
from slm.model.transformer import Transformer, evaluating
from slm.settings import SamplingConfig
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.validation import split_settings


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
