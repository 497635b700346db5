"""The server's addresses: completions, chat completions, models, health."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from secrets import compare_digest
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from slm.serving.batching import Batcher
from slm.serving.errors import LONGEST_QUOTE, RequestError
from slm.serving.prompts import ReadPrompt, read_prompts
from slm.serving.protocol import (
    ChatCompletion,
    ChatCompletionRequest,
    Completion,
    CompletionRequest,
    ErrorResponse,
    Health,
    ModelCard,
    ModelList,
)
from slm.serving.responses import (
    ChatFormat,
    CompletionFormat,
    EventStream,
    ResponseFormat,
    whole_answer,
)
from slm.serving.story_job import StoryJob
from slm.serving.validation import StoryRequest, validate_chat, validate_completion
from slm.settings import ServerLimits
from slm.tokenizer.byte_pair import Tokenizer


@dataclass(frozen=True)
class ServedModel:
    """What the server serves, and to whom."""

    name: str
    created: int  # seconds since 1970
    tokenizer: Tokenizer
    limits: ServerLimits
    api_key: str | None

    def check_name(self, asked: str | None) -> None:
        """Raise RequestError (404) where another model is asked for."""
        if asked not in (None, self.name):
            quoted = asked[:LONGEST_QUOTE]
            message = f"There is no model {quoted!r}: use {self.name!r}."
            raise RequestError(404, message, "model")

    def card(self) -> ModelCard:
        """The model in OpenAI's form."""
        return ModelCard(id=self.name, created=self.created)


def served_model(request: Request) -> ServedModel:
    """The model, as a dependency."""
    return request.app.state.served_model


def batcher(request: Request) -> Batcher:
    """The batcher, as a dependency."""
    return request.app.state.batcher


Served = Annotated[ServedModel, Depends(served_model)]
Batch = Annotated[Batcher, Depends(batcher)]
Credentials = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, description="the server's API key")),
]


def require_api_key(served: Served, credentials: Credentials) -> None:
    """Raise RequestError (401) where the client does not bring the API key. A dependency of all
    addresses under /v1 where the server has a key."""
    given = credentials.credentials if credentials else ""
    sent = given.encode("latin-1")  # the bytes of the header, as which a client sends UTF-8
    if not compare_digest(sent, served.api_key.encode()):
        raise RequestError(
            401,
            "Bring the API key, as `Authorization: Bearer KEY`.",
            headers={"WWW-Authenticate": "Bearer"},
        )


def error_responses(*statuses: int) -> dict[int, dict]:
    """What the documentation says of refusals."""
    return {status: {"model": ErrorResponse} for status in statuses}


LARGE_BODY = 4_000  # bytes of a request, of which the prompts are read in a few milliseconds
EVENT_STREAM = {"text/event-stream": {"schema": {}}}  # each event: the answer's next piece
REFUSALS = error_responses(400, 401, 404, 408, 413, 429, 500, 503)

public = APIRouter()
router = APIRouter(prefix="/v1")


@public.get("/health")
async def health(batch: Batch) -> Health:
    """Whether the server works, and how many stories are being written or wait."""
    return Health(status="ok", stories=batch.busy)


@public.head("/health", include_in_schema=False)
async def health_head() -> Response:
    """The same without a body, for load balancers."""
    return Response()


@router.get("/models", responses=error_responses(401))
async def models(served: Served) -> ModelList:
    """The model that can be asked."""
    return ModelList(data=[served.card()])


@router.get("/models/{model}", responses=error_responses(401, 404))
async def model(model: str, served: Served) -> ModelCard:
    """One model."""
    served.check_name(model)
    return served.card()


@router.post(
    "/completions",
    response_model=Completion,
    responses={**REFUSALS, 200: {"model": Completion, "content": EVENT_STREAM}},
)
async def completions(body: CompletionRequest, request: Request, served: Served):
    """Write stories that begin with a prompt: all at once, or with `stream` piece by piece as
    server-sent events."""
    served.check_name(body.model)
    job = await new_job(validate_completion, body, request)
    form = CompletionFormat(job.id, served.name, served.tokenizer, body.logprobs)
    return await respond(job, form, request)


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={**REFUSALS, 200: {"model": ChatCompletion, "content": EVENT_STREAM}},
)
async def chat_completions(body: ChatCompletionRequest, request: Request, served: Served):
    """For clients that only chat: the last user message is how the story begins, and the answer is
    how it goes on. The messages before it are not read: the model knows stories, not talks."""
    served.check_name(body.model)
    job = await new_job(validate_chat, body, request)
    return await respond(job, ChatFormat(job.id, served.name), request)


async def new_job(validate: Callable, body: BaseModel, request: Request) -> StoryJob:
    """What is to be written, for the client who asks. Raises RequestError for what cannot be."""
    served = served_model(request)
    batch = batcher(request)

    def read() -> tuple[StoryRequest, list[ReadPrompt]]:
        asked = validate(body, served.tokenizer, served.limits)
        return asked, read_prompts(asked, served.tokenizer)

    if int(request.headers.get("content-length", LARGE_BODY)) < LARGE_BODY:
        asked, prompts = read()
    else:
        # Long prompts take time: a thread reads them, so that others are answered meanwhile. One
        # request at a time, so that many of them leave time to those who decode.
        async with request.app.state.reading:
            if await request.is_disconnected():
                raise RequestError(400, "The client is gone.")
            asked, prompts = await asyncio.to_thread(read)
    client = request.client.host if request.client else ""
    return StoryJob(asked, prompts, served.tokenizer, batch, client, served.limits.unread)


async def respond(job: StoryJob, form: ResponseFormat, request: Request) -> Response | BaseModel:
    """Write the stories, and answer as the client wants it."""
    job.start()
    if job.request.stream:
        return EventStream(job, form)
    return await whole_answer(job, form, request)
