"""Generating stories: one loop that decodes ids, on which streams and batches of text are built."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain

import torch

from slm.generation.decoder import FastDecoder
from slm.generation.sampling import choose_ids
from slm.hardware.memory import USABLE, available_memory
from slm.model.kv_cache import KVCache
from slm.model.transformer import Transformer
from slm.settings import SamplingConfig
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.validation import split_settings


def generate_ids(
    decoder: FastDecoder,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    eot_id: int,
    n: int = 1,
    other_ends: Collection[int] = (),
) -> Iterator[list[int]]:
    """Continue each prompt `n` times, all side by side; yield one new id for each row at a time.

    The rows are the first prompt's n, then the second's, and so on. A row that has drawn `eot_id`
    goes on yielding it; when all have, or after `max_new_tokens`, this ends. Models of others may
    end a text with `other_ends` too: where one is drawn, `eot_id` stands for it. What does not fit
    the context is forgotten (see `FastDecoder`). Each prompt has its own generator of random
    numbers, which starts from the seed: so it is continued as it would be alone.

    Raises ValueError where that would need more memory than there is."""
    check_memory(decoder, prompts, sampling.max_new_tokens, n)
    generators = [_new_generator(sampling.seed) for _ in prompts]
    rows = [list(prompt) for prompt in prompts for _ in range(n)]  # of each row all ids
    # The end-of-text token before a story does not count as one that has occurred: else a
    # repetition penalty would put off the end of the story itself.
    starts = [1 if row[0] == eot_id else 0 for row in rows]
    ended = [False] * len(rows)
    cache = decoder.new_cache(len(rows))
    logits = decoder.prefill(rows, cache)  # (B, V)
    for new_tokens in range(1, sampling.max_new_tokens + 1):
        previous = None
        if sampling.repetition_penalty != 1:
            previous = [row[start:] for row, start in zip(rows, starts, strict=True)]
        new_ids = choose_ids(logits, sampling, generators, previous)
        for i, row in enumerate(rows):
            if ended[i] or new_ids[i] in other_ends:
                new_ids[i] = eot_id
            ended[i] = new_ids[i] == eot_id
            row.append(new_ids[i])
        yield new_ids
        if all(ended) or new_tokens == sampling.max_new_tokens:
            return
        logits = decoder.step(rows, cache)  # (B, V)


def bytes_per_story(decoder: FastDecoder, prompt_tokens: int, max_new_tokens: int) -> int:
    """About how much memory one of several stories takes while they are generated."""
    config = decoder.model.config
    tokens = prompt_tokens + max_new_tokens
    read_at_once = min(prompt_tokens, config.context_length)
    if tokens > config.context_length:  # then its newer half is read again
        read_at_once = max(read_at_once, config.context_length // 2)
    cache = KVCache(config, 1, like=decoder.cos, capacity=0).bytes_per_token
    logits = 2 * 4 * config.vocab_size  # float32, and as much while they are computed
    sampling = 64 * config.vocab_size  # float32 and float64 copies, and orders in int64
    return cache * config.context_length + logits * read_at_once + sampling


def check_memory(
    decoder: FastDecoder, prompts: Sequence[Sequence[int]], max_new_tokens: int, n: int
) -> None:
    """Raise ValueError, naming how many stories fit, where there is too little memory for all."""
    available = available_memory(decoder.device.type)
    if available is None:
        return
    stories = len(prompts) * n
    longest = max(len(prompt) for prompt in prompts)
    story_bytes = bytes_per_story(decoder, longest, max_new_tokens)
    needed = stories * story_bytes
    if needed <= USABLE * available:
        return
    fitting = int(USABLE * available // story_bytes)
    if fitting >= len(prompts):
        advice = f"set n to at most {fitting // len(prompts):,}"
    elif fitting >= 1:
        advice = f"give at most {fitting:,} prompts at a time"
    else:
        advice = "close other programs, or take a smaller model"
    raise ValueError(
        f"{stories:,} stories at once need about {needed / 1e9:,.1f} GB of memory, and "
        f"{available / 1e9:,.1f} are free: {advice}."
    )


def _new_generator(seed: int | None) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def before_end(ids: Iterable[int], eot_id: int) -> Iterator[int]:
    """The ids of a story, without its end-of-text token and what follows that."""
    for id in ids:
        if id == eot_id:
            return
        yield id


def stream(model: Transformer, tokenizer: Tokenizer, prompt: str = "", **settings) -> Iterator[str]:
    """Generate one story, yielding its text piece by piece: first the prompt, then what follows.

    `settings` are fields of `SamplingConfig`. Joined, the pieces are what `generate` gives; none
    holds half a character. Raises ValueError, at the call, for a setting that makes no sense."""
    sampling = _sampling_config(settings)
    [prompt_ids] = _encode_prompts(model, tokenizer, [prompt])
    steps = generate_ids(
        FastDecoder(model),
        [prompt_ids],
        sampling,
        tokenizer.eot_id,
        other_ends=tokenizer.end_ids[1:],
    )
    ids = before_end((new_ids[0] for new_ids in steps), tokenizer.eot_id)
    pieces = tokenizer.decode_stream(ids, before=prompt_ids[1:])
    return (piece for piece in chain([prompt], pieces) if piece)


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str | Sequence[str] = "",
    *,
    n: int | None = None,
    **settings,
) -> str | list[str]:
    """Generate a story that begins with `prompt`, and return its text, prompt included.

    With several prompts, or with `n`, many stories are generated at once, which is quicker than one
    after the other, and a list comes back: the first prompt's n stories (without `n`, one), then
    the second's, and so on. With a seed, each prompt gets the stories that it would get alone.

    `settings` are fields of `SamplingConfig`. Raises ValueError for one that makes no sense."""
    sampling = _sampling_config(settings)
    if n is not None and (type(n) is not int or n < 1):
        raise ValueError(f"n must be a whole number from 1 up, not {n!r}.")
    one_prompt = isinstance(prompt, str)
    prompts = [prompt] if one_prompt else prompt
    prompt_ids = _encode_prompts(model, tokenizer, prompts)
    n_each = n or 1
    steps = generate_ids(
        FastDecoder(model),
        prompt_ids,
        sampling,
        tokenizer.eot_id,
        n=n_each,
        other_ends=tokenizer.end_ids[1:],
    )
    rows = zip(*steps, strict=True)  # from ids step by step to ids row by row
    beginnings = [(text, ids) for text, ids in zip(prompts, prompt_ids) for _ in range(n_each)]
    stories = []
    for (text, ids), row in zip(beginnings, rows, strict=True):
        new_ids = before_end(row, tokenizer.eot_id)
        # Decoded after the prompt: with some tokenizers that decides about a space between.
        stories.append(text + "".join(tokenizer.decode_stream(new_ids, before=ids[1:])))
    return stories[0] if one_prompt and n is None else stories


def _sampling_config(settings: dict) -> SamplingConfig:
    [sampling] = split_settings(settings, SamplingConfig)
    return SamplingConfig(**sampling)


def _encode_prompts(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[str]
) -> list[list[int]]:
    """The ids of each prompt, behind the token that a story begins after, as in training."""
    if not isinstance(prompts, list | tuple):
        raise ValueError(f"The prompt must be a text, or a list of texts, not {prompts!r}.")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(f"The prompt must be a text, not {prompt!r}; an empty one is welcome.")
    if not prompts:
        raise ValueError("There is no prompt: give at least one text, which may be empty.")
    model.check_vocabulary(tokenizer.vocab_size)
    return [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
