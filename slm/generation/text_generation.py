"""Generating stories: a loop that decodes ids; streams and batches of text are built on it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from slm.generation.decoder import IncrementalDecoder
from slm.generation.sampling import choose_ids, ids_to_penalize, new_generator
from slm.model.kv_cache import KVCache
from slm.model.transformer import Transformer
from slm.settings import SamplingConfig
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.memory import USABLE, available_memory
from slm.utils.settings_checks import check_number, show_value, split_settings


def generate_ids(
    decoder: IncrementalDecoder,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig,
    end_ids: Sequence[int],
    n: int = 1,
) -> Iterator[list[int]]:
    """Continue each prompt `n` times, in one batch; yield one new id for each row at a time.

    The rows are the first prompt's n, then the second's, and so on. Each of `end_ids` ends a story;
    in the results the first of them stands for all. A row that has ended keeps yielding it; once
    all rows have ended, or after `max_new_tokens`, this stops. With no `end_ids` no story ends
    early. What does not fit the context is forgotten (see `IncrementalDecoder`). Each prompt has
    its own generator of random numbers, which starts from the seed, so that it gets the same
    stories as it would alone.

    Raises ValueError where that would need more memory than is available.
    """
    check_memory(decoder, prompts, sampling.max_new_tokens, n)
    generators = [new_generator(sampling.seed) for _ in prompts]
    rows = [list(prompt) for prompt in prompts for _ in range(n)]  # all ids of each row
    ended = [False] * len(rows)
    cache = decoder.new_cache(len(rows))
    logits = decoder.prefill(rows, cache)  # (B, V)
    for new_tokens in range(1, sampling.max_new_tokens + 1):
        previous = ids_to_penalize(rows, sampling, end_ids)
        new_ids = choose_ids(logits, sampling, generators, previous)
        for i, row in enumerate(rows):
            ended[i] = ended[i] or new_ids[i] in end_ids
            if ended[i]:
                new_ids[i] = end_ids[0]
            row.append(new_ids[i])
        yield new_ids
        if all(ended) or new_tokens == sampling.max_new_tokens:
            return
        logits = decoder.step(rows, cache)  # (B, V)


def bytes_per_story(decoder: IncrementalDecoder, prompt_tokens: int, max_new_tokens: int) -> int:
    """About how many bytes each of several stories takes while they are generated."""
    config = decoder.model.config
    tokens = prompt_tokens + max_new_tokens
    read_at_once = min(prompt_tokens, config.context_length)
    if tokens > config.context_length:  # then the newer half of it is read again
        read_at_once = max(read_at_once, config.context_length // 2)
    cache = KVCache(config, 1, like=decoder.cos, max_tokens=0).bytes_per_token
    logits = 2 * 4 * config.vocab_size  # float32, and the same again while they are computed
    sampling = 64 * config.vocab_size  # float32 and float64 copies, and orders in int64
    return cache * config.context_length + logits * read_at_once + sampling


def check_memory(
    decoder: IncrementalDecoder, prompts: Sequence[Sequence[int]], max_new_tokens: int, n: int
) -> None:
    """Raise ValueError, saying how many stories fit, where there is too little memory for all."""
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


def before_end(ids: Iterable[int], eot_id: int) -> Iterator[int]:
    """The ids of a story up to its end-of-text token, which is left out."""
    for id in ids:
        if id == eot_id:
            return
        yield id


def stream(model: Transformer, tokenizer: Tokenizer, prompt: str = "", **settings) -> Iterator[str]:
    """Generate one story, yielding its text piece by piece: the prompt first, then the rest.

    `settings` are fields of `SamplingConfig`. Joined together, the pieces are what `generate`
    returns; none of them holds half a character.

    Raises ValueError, at the call, for an invalid setting.
    """
    sampling = _sampling_config(settings)
    [prompt_ids] = _encode_prompts(model, tokenizer, [prompt])
    steps = generate_ids(IncrementalDecoder(model), [prompt_ids], sampling, tokenizer.end_ids)
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

    With several prompts, or with `n`, many stories are generated in one batch, which is faster than
    one after another. The result is then a list: the n stories of the first prompt (one, without
    `n`), then those of the second, and so on. With a seed, each prompt gets the same stories as it
    would alone. `settings` are fields of `SamplingConfig`.

    Raises ValueError for an invalid setting, or where the memory is too small for all stories.
    """
    sampling = _sampling_config(settings)
    n_each = 1 if n is None else check_number("n", n, whole=True, low=1)
    one_prompt = isinstance(prompt, str)
    prompts = [prompt] if one_prompt else prompt
    prompt_ids = _encode_prompts(model, tokenizer, prompts)
    steps = generate_ids(IncrementalDecoder(model), prompt_ids, sampling, tokenizer.end_ids, n_each)
    rows = zip(*steps, strict=True)  # from ids step by step to ids row by row
    stories = []
    for number, row in enumerate(rows):
        text = prompts[number // n_each]
        ids = prompt_ids[number // n_each]
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
    """The ids of each prompt, after the token that begins every story in training."""
    if not isinstance(prompts, list | tuple):
        raise ValueError(
            f"The prompt must be a text, or a list of texts, not {show_value(prompts)}."
        )
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(
                f"The prompt must be a text, not {show_value(prompt)}; an empty one is welcome."
            )
    if not prompts:
        raise ValueError("There is no prompt: give at least one text, which may be empty.")
    model.check_vocabulary(tokenizer.vocab_size)
    return [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
