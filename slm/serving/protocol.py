"""What OpenAI's completions ask and answer, as the API's types (optional).
See https://platform.openai.com/docs/api-reference/completions."""

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr


class StreamOptions(BaseModel):
    """What a stream tells besides the text."""

    include_usage: StrictBool = False


class CompletionRequest(BaseModel):
    """A request for stories. Beyond OpenAI's fields: `top_k`, `min_p`, `repetition_penalty`."""

    model_config = ConfigDict(extra="forbid", strict=False)

    model: StrictStr | None = Field(None, description="see /v1/models; default: the one there is")
    prompt: StrictStr | list[StrictStr] = Field("", description="how a story begins, or several")
    max_tokens: StrictInt | None = Field(None, ge=0, description="new tokens of a story; else 400")
    temperature: float = Field(0.8, ge=0, le=5, strict=True, allow_inf_nan=False)
    top_p: float = Field(1.0, ge=0, le=1, strict=True, allow_inf_nan=False)
    top_k: StrictInt | None = Field(None, ge=1)
    min_p: float | None = Field(0.05, ge=0, le=1, strict=True, allow_inf_nan=False)
    repetition_penalty: float = Field(1.0, ge=0.01, le=10, strict=True, allow_inf_nan=False)
    n: StrictInt = Field(1, ge=1, description="stories for each prompt")
    best_of: StrictInt | None = Field(None, description="as `n`, or left out")
    seed: StrictInt | None = Field(None, ge=0, lt=2**62)
    stop: StrictStr | list[StrictStr] | None = Field(None, description="texts to stop before")
    stream: StrictBool | None = False
    stream_options: StreamOptions | None = None
    logprobs: StrictInt | None = Field(None, ge=0, le=20)
    echo: StrictBool | None = False
    presence_penalty: float | None = Field(0.0, ge=0, le=0, description="0: there is none")
    frequency_penalty: float | None = Field(0.0, ge=0, le=0, description="0: there is none")
    logit_bias: dict[str, float] | None = Field(None, max_length=0, description="empty")
    suffix: StrictStr | None = Field(None, max_length=0, description="empty")
    user: StrictStr | None = None


class Logprobs(BaseModel):
    """The probabilities of a story's tokens, and where each begins in the text."""

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
    """The answer to a request."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None
