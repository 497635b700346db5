"""Responses: pieces of stories in OpenAI's forms, as one answer or as server-sent events."""

import time
from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from slm.serving.disconnect import unless_disconnected
from slm.serving.errors import RequestError, error_detail, unexpected_error
from slm.serving.protocol import (
    ChatAnswer,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    Choice,
    Completion,
    ErrorResponse,
    Logprobs,
    Usage,
)
from slm.serving.sequence import Token
from slm.serving.story_job import StoryJob
from slm.serving.story_output import Piece
from slm.tokenizer.byte_pair import Tokenizer


class ResponseFormat(Protocol):
    """One of OpenAI's forms of an answer."""

    def answer(self, stories: list[Piece], usage: Usage) -> BaseModel:
        """All stories at once."""

    def first_events(self, count: int) -> Iterable[BaseModel]:
        """What a stream of `count` stories begins with."""

    def event(self, piece: Piece) -> BaseModel:
        """A piece of one story."""

    def usage_event(self, usage: Usage) -> BaseModel:
        """What a stream ends with, if usage was asked for."""


class CompletionFormat:
    """The form of /v1/completions."""

    def __init__(self, job_id: str, model: str, tokenizer: Tokenizer, logprobs: int | None):
        self._common = {"id": f"cmpl-{job_id}", "created": int(time.time()), "model": model}
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._token_texts: dict[int, str] = {}  # of the tokens so far: most come again and again

    def answer(self, stories: list[Piece], usage: Usage) -> Completion:
        """All stories at once."""
        choices = [self._choice(story) for story in stories]
        return Completion(**self._common, choices=choices, usage=usage)

    def first_events(self, count: int) -> list[Completion]:
        """Nothing."""
        return []

    def event(self, piece: Piece) -> Completion:
        """A piece of one story."""
        return Completion(**self._common, choices=[self._choice(piece)])

    def usage_event(self, usage: Usage) -> Completion:
        """How many tokens it took."""
        return Completion(**self._common, choices=[], usage=usage)

    def _choice(self, piece: Piece) -> Choice:
        logprobs = None
        if self._logprobs is not None and piece.tokens:
            logprobs = Logprobs(
                tokens=[self._token_text(token.id) for token in piece.tokens],
                token_logprobs=[token.logprob for token in piece.tokens],
                top_logprobs=[self._top_logprobs(token) for token in piece.tokens],
                text_offset=list(piece.offsets),
            )
        return Choice(
            text=piece.text,
            index=piece.index,
            logprobs=logprobs,
            finish_reason=piece.finish_reason,
        )

    def _top_logprobs(self, token: Token) -> dict[str, float] | None:
        return {self._token_text(i): logprob for i, logprob in token.top_logprobs} or None

    def _token_text(self, token_id: int) -> str:
        text = self._token_texts.get(token_id)
        if text is None:
            [text] = self._tokenizer.pieces([token_id])
            self._token_texts[token_id] = text
        return text


class ChatFormat:
    """The form of /v1/chat/completions."""

    def __init__(self, job_id: str, model: str):
        self._common = {"id": f"chatcmpl-{job_id}", "created": int(time.time()), "model": model}

    def answer(self, stories: list[Piece], usage: Usage) -> ChatCompletion:
        """All stories at once."""
        choices = [
            ChatChoice(
                message=ChatAnswer(content=story.text),
                index=story.index,
                finish_reason=story.finish_reason,
            )
            for story in stories
        ]
        return ChatCompletion(**self._common, choices=choices, usage=usage)

    def first_events(self, count: int) -> list[ChatCompletionChunk]:
        """Who speaks, for each story."""
        role = ChatDelta(role="assistant", content="")
        return [self._chunk(index, role, None) for index in range(count)]

    def event(self, piece: Piece) -> ChatCompletionChunk:
        """A piece of one story."""
        return self._chunk(piece.index, ChatDelta(content=piece.text), piece.finish_reason)

    def usage_event(self, usage: Usage) -> ChatCompletionChunk:
        """How many tokens it took."""
        return ChatCompletionChunk(**self._common, choices=[], usage=usage)

    def _chunk(self, index: int, delta: ChatDelta, reason: str | None) -> ChatCompletionChunk:
        choice = ChatChunkChoice(delta=delta, index=index, finish_reason=reason)
        return ChatCompletionChunk(**self._common, choices=[choice])


async def whole_answer(job: StoryJob, form: ResponseFormat, request: Request) -> BaseModel:
    """The answer in one, when all stories are finished; given up where the client goes away."""
    pieces: list[list[Piece]] = [[] for _ in range(job.count)]  # of each story

    async def collect() -> None:
        async for piece in job.pieces():
            pieces[piece.index].append(piece)

    try:
        await unless_disconnected(request, collect())
    finally:
        job.cancel()
    return form.answer([_joined(of_story) for of_story in pieces], job.usage())


def _joined(pieces: list[Piece]) -> Piece:
    """A story's pieces as one."""
    return Piece(
        index=pieces[0].index,
        text="".join(piece.text for piece in pieces),
        tokens=tuple(token for piece in pieces for token in piece.tokens),
        offsets=tuple(offset for piece in pieces for offset in piece.offsets),
        finish_reason=pieces[-1].finish_reason,
    )


class EventStream(StreamingResponse):
    """The answer piece by piece, as server-sent events."""

    media_type = "text/event-stream"

    def __init__(self, job: StoryJob, form: ResponseFormat):
        super().__init__(_events(job, form))
        self._job = job

    async def __call__(self, scope, receive, send) -> None:
        """Send the events. However that ends, the stories end with it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.cancel()


async def _events(job: StoryJob, form: ResponseFormat) -> AsyncIterator[str]:
    try:
        for first in form.first_events(job.count):
            yield _event(first)
        async for piece in job.pieces():
            yield _event(form.event(piece))
        if job.request.include_usage:
            yield _event(form.usage_event(job.usage()))
        yield "data: [DONE]\n\n"
    except RequestError as error:  # the status has been sent: all that is left is an event
        detail = error_detail(error.status, error.message, error.param)
        yield _event(ErrorResponse(error=detail))
    except Exception as error:
        yield _event(ErrorResponse(error=unexpected_error(error)))


def _event(content: BaseModel) -> str:
    return f"data: {content.model_dump_json()}\n\n"
