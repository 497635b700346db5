"""Request validation: from what a client has sent to what is to be written, or a refusal."""

from collections.abc import Sequence
from dataclasses import dataclass

from slm.serving.errors import RequestError
from slm.serving.protocol import ChatCompletionRequest, CompletionRequest, SamplingFields
from slm.settings import SamplingConfig, ServerLimits
from slm.tokenizer.byte_pair import Tokenizer

MAX_STOPS = 16
MAX_STOP_LENGTH = 200  # characters


@dataclass(frozen=True)
class Prompt:
    """How a story begins."""

    text: str | None  # None where it came as token ids
    ids: list[int]


@dataclass(frozen=True)
class StoryRequest:
    """What is to be written: `n` stories for each prompt."""

    prompts: list[Prompt]
    n: int
    max_tokens: int  # new ones of each story
    sampling: SamplingConfig
    stops: list[str]
    stream: bool
    include_usage: bool
    echo: bool = False
    logprobs: int | None = None


def validate_completion(
    request: CompletionRequest, tokenizer: Tokenizer, limits: ServerLimits
) -> StoryRequest:
    """What a request for completions asks for. Raises RequestError for what cannot be done."""
    prompts = _prompts(request.prompt, tokenizer, limits)
    if request.best_of not in (None, request.n):
        raise RequestError(400, "best_of must be as n, or left out.", "best_of")
    return _story_request(
        request,
        limits,
        prompts,
        max_tokens=request.max_tokens,
        echo=request.echo,
        logprobs=request.logprobs,
    )


def validate_chat(
    request: ChatCompletionRequest, tokenizer: Tokenizer, limits: ServerLimits
) -> StoryRequest:
    """What a request for chat completions asks for: a story that begins with the last user message.
    Raises RequestError for what cannot be done."""
    prompts = [_text_prompt(_last_user_message(request), "messages", tokenizer, limits)]
    max_tokens = request.max_completion_tokens
    if max_tokens is None:
        max_tokens = request.max_tokens
    return _story_request(request, limits, prompts, max_tokens=max_tokens)


def _story_request(
    request: SamplingFields,
    limits: ServerLimits,
    prompts: list[Prompt],
    max_tokens: int | None,
    **completion_only,
) -> StoryRequest:
    count = len(prompts) * request.n
    if count > limits.stories:
        message = f"Ask for at most {limits.stories} stories at once, not {count}."
        raise RequestError(400, message, "n")
    options = request.stream_options
    return StoryRequest(
        prompts=prompts,
        n=request.n,
        max_tokens=_max_tokens(max_tokens, limits),
        sampling=_sampling(request),
        stops=_stops(request.stop),
        stream=request.stream,
        include_usage=options is not None and options.include_usage,
        **completion_only,
    )


def _sampling(request: SamplingFields) -> SamplingConfig:
    top_p = request.top_p if request.top_p < 1 else None  # 1 keeps all tokens
    try:
        return SamplingConfig(
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=top_p,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            dry_multiplier=request.dry_multiplier,
            seed=request.seed,
        )
    except ValueError as error:
        raise RequestError(400, str(error)) from None


def _max_tokens(asked: int | None, limits: ServerLimits) -> int:
    if asked is None:
        return min(SamplingConfig().max_new_tokens, limits.tokens)
    if asked > limits.tokens:
        message = f"max_tokens must be at most {limits.tokens:,}, not {asked:,}."
        raise RequestError(400, message, "max_tokens")
    return asked


def _stops(asked: str | list[str] | None) -> list[str]:
    stops = [asked] if isinstance(asked, str) else asked or []
    if len(stops) > MAX_STOPS or not all(0 < len(stop) <= MAX_STOP_LENGTH for stop in stops):
        message = f"stop must be up to {MAX_STOPS} texts of 1 to {MAX_STOP_LENGTH} characters."
        raise RequestError(400, message, "stop")
    for stop in stops:
        _refuse_half_characters(stop, "stop")
    return stops


def _prompts(
    asked: str | list[str] | list[int] | list[list[int]],
    tokenizer: Tokenizer,
    limits: ServerLimits,
) -> list[Prompt]:
    """The prompts of a request: OpenAI takes a text, token ids, or a list of either."""
    if isinstance(asked, str) or (asked and isinstance(asked[0], int)):
        asked = [asked]
    if not asked:
        raise RequestError(400, "Give one prompt or more; an empty text is one too.", "prompt")
    if len(asked) > limits.stories:
        message = f"Ask for at most {limits.stories} stories at once, not {len(asked)}."
        raise RequestError(400, message, "prompt")
    return [
        _text_prompt(prompt, "prompt", tokenizer, limits)
        if isinstance(prompt, str)
        else _id_prompt(prompt, tokenizer, limits)
        for prompt in asked
    ]


def _text_prompt(text: str, field: str, tokenizer: Tokenizer, limits: ServerLimits) -> Prompt:
    if len(text) > limits.prompt:
        message = f"A prompt may have at most {limits.prompt:,} characters, not {len(text):,}."
        raise RequestError(400, message, field)
    _refuse_half_characters(text, field)
    return Prompt(text, tokenizer.encode(text))


def _id_prompt(ids: Sequence[int], tokenizer: Tokenizer, limits: ServerLimits) -> Prompt:
    if len(ids) > limits.prompt:
        message = f"A prompt may have at most {limits.prompt:,} token ids, not {len(ids):,}."
        raise RequestError(400, message, "prompt")
    if not all(0 <= token_id < tokenizer.vocab_size for token_id in ids):
        message = f"A prompt's token ids must be from 0 to {tokenizer.vocab_size - 1:,}."
        raise RequestError(400, message, "prompt")
    return Prompt(None, list(ids))


def _refuse_half_characters(text: str, field: str) -> None:
    """JSON can spell a surrogate, half of a character, which is no text."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RequestError(400, f"{field} has half of a character (a surrogate).", field)


def _last_user_message(request: ChatCompletionRequest) -> str:
    for message in reversed(request.messages):
        if message.role == "user":
            if isinstance(message.content, list):
                return "".join(part.text for part in message.content)
            return message.content or ""
    raise RequestError(
        400, "messages must have one of the role 'user': how the story begins.", "messages"
    )
