"""OpenAI's protocol: what its completions and chat completions ask and answer, as types.
See https://platform.openai.com/docs/api-reference."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from slm.settings import SamplingConfig

DEFAULT = SamplingConfig()
MAX_INT = 2**63 - 1  # what fits 64 bits, as the settings behind these fields have it
# Values that ask for nothing.
HARMLESS = (None, False, 0, "", [], {}, "none", "auto", ["text"], {"type": "text"})


def _refuse_unless_harmless(value: Any) -> Any:
    if value not in HARMLESS:
        raise PydanticCustomError("unsupported", "is not supported: leave it out")
    return value


def _must_be(description: str) -> WrapValidator:
    """Describe what a field may be, where that is one of several types: the validation's own
    message would list what is wrong with regard to each of them."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("must_be", f"must be {description}") from None

    return WrapValidator(validate)


Int = Annotated[StrictInt, Field(le=MAX_INT)]
Float = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Unsupported = Annotated[Any, AfterValidator(_refuse_unless_harmless)]
Ignored = Any  # a field that changes nothing about a story
ItemT = TypeVar("ItemT")
ListOf = Annotated[list[ItemT], Field(fail_fast=True)]  # of many wrong items, the first is enough
Texts = Annotated[StrictStr | ListOf[StrictStr] | None, _must_be("a text or a list of texts")]
Prompts = Annotated[
    StrictStr | ListOf[StrictStr] | ListOf[Int] | ListOf[ListOf[Int]] | None,
    _must_be("a text, a list of token ids, or a list of either"),
]


class ApiRequest(BaseModel):
    """A request's body. In each field, null means the default; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _null_means_default(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {}
        unknown = 0
        for name, value in values.items():
            if name not in cls.model_fields:
                unknown += 1
                if unknown == 1:  # the first is refused: validating the others would take time
                    given[name] = value
            elif value is not None:
                given[name] = value
        return given


class StreamOptions(ApiRequest):
    """What a stream reports besides the text."""

    include_usage: StrictBool | None = False
    include_obfuscation: Ignored = None


class SamplingFields(ApiRequest):
    """How a story is written. Beyond OpenAI's fields: `top_k`, `min_p`, `repetition_penalty`,
    `dry_multiplier`."""

    model: StrictStr | None = Field(None, description="see /v1/models; default: the one there is")
    max_tokens: Int | None = Field(
        None,
        ge=0,
        description=f"new tokens of a story; default: {DEFAULT.max_new_tokens}, or fewer where the "
        "server allows no more",
    )
    temperature: Float | None = Field(DEFAULT.temperature, ge=0, le=5)
    top_p: Float | None = Field(DEFAULT.top_p or 1.0, ge=0, le=1)
    top_k: Int | None = Field(DEFAULT.top_k, ge=1)
    min_p: Float | None = Field(DEFAULT.min_p, ge=0, le=1)
    repetition_penalty: Float | None = Field(DEFAULT.repetition_penalty, ge=0.01, le=10)
    dry_multiplier: Float | None = Field(DEFAULT.dry_multiplier, ge=0, le=10)
    n: Int | None = Field(1, ge=1, description="stories for each prompt")
    seed: Int | None = Field(None, ge=0, lt=2**62)
    stop: Texts = Field(None, description="texts to stop before")
    stream: StrictBool | None = False
    stream_options: StreamOptions | None = None
    presence_penalty: Unsupported = None
    frequency_penalty: Unsupported = None
    logit_bias: Unsupported = None
    user: StrictStr | None = None


class CompletionRequest(SamplingFields):
    """A request for stories that begin with a prompt."""

    prompt: Prompts = Field(
        "", description="how a story begins, as text or as token ids; or a list of such"
    )
    best_of: Int | None = Field(None, description="as `n`, or left out")
    logprobs: Int | None = Field(None, ge=0, le=20, description="likeliest tokens to report")
    echo: StrictBool | None = Field(False, description="begin the answer with the prompt")
    suffix: Unsupported = None


class ChatContentPart(BaseModel):
    """A part of a message: only text can be read."""

    type: Literal["text"]
    text: StrictStr


MessageContent = Annotated[
    StrictStr | ListOf[ChatContentPart] | None,
    _must_be("a text, or a list of parts of type 'text'"),
]


class ChatMessage(BaseModel):
    """A message of a chat. Fields besides these are ignored."""

    role: StrictStr
    content: MessageContent = None


class ChatCompletionRequest(SamplingFields):
    """A request in the form of a chat. The last user message is how the story begins."""

    messages: ListOf[ChatMessage]
    max_completion_tokens: Int | None = Field(None, ge=0, description="newer name of max_tokens")
    logprobs: Unsupported = None
    top_logprobs: Unsupported = None
    tools: Unsupported = None
    tool_choice: Unsupported = None
    functions: Unsupported = None
    function_call: Unsupported = None
    response_format: Unsupported = None
    audio: Unsupported = None
    modalities: Unsupported = None
    web_search_options: Unsupported = None
    metadata: Ignored = None
    parallel_tool_calls: Ignored = None
    prediction: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    reasoning_effort: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    verbosity: Ignored = None


class Logprobs(BaseModel):
    """The log-probabilities of a story's tokens, and where each begins in the text. None: the model
    gave none, since the token is the first or lies further back than the context reaches."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class Choice(BaseModel):
    """One story, or in a stream the next piece of it."""

    text: str
    index: int
    logprobs: Logprobs | None = None
    finish_reason: str | None


class Usage(BaseModel):
    """How many tokens were read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """The answer to a request for completions, or one event of its stream."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class ChatAnswer(BaseModel):
    """The assistant's message: how the story goes on."""

    role: str = "assistant"
    content: str
    refusal: str | None = None


class ChatChoice(BaseModel):
    """One story."""

    message: ChatAnswer
    index: int
    logprobs: None = None
    finish_reason: str | None


class ChatCompletion(BaseModel):
    """The answer to a request for chat completions."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class ChatDelta(BaseModel):
    """What a stream adds to a message."""

    role: str | None = None
    content: str | None = None


class ChatChunkChoice(BaseModel):
    """The next piece of one story."""

    delta: ChatDelta
    index: int
    logprobs: None = None
    finish_reason: str | None


class ChatCompletionChunk(BaseModel):
    """One event of a stream of chat completions."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """A model that can be asked."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "slm"


class ModelList(BaseModel):
    """All models: there is one."""

    object: str = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """Whether the server works, and how many stories are being written or wait."""

    status: str
    stories: int


class ErrorDetail(BaseModel):
    """What is wrong: one sentence, and the field at fault."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """The answer to a request that failed."""

    error: ErrorDetail
