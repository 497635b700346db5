"""An API that existing clients speak: OpenAI's completions (optional). `python -m slm serve`
starts it."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from secrets import compare_digest

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException

from slm.model.transformer import Transformer
from slm.serving.batching import Batcher, Full
from slm.serving.completions import Job, refuse
from slm.serving.protocol import Completion, CompletionRequest
from slm.settings import Limits
from slm.tokenizer.byte_pair import Tokenizer


class Problem(BaseModel):
    """What is wrong, as OpenAI's clients expect it."""

    class Detail(BaseModel):
        """One sentence, and where it applies."""

        message: str
        type: str
        param: str | None = None
        code: str | None = None

    error: Detail


class ModelCard(BaseModel):
    """A model that can be asked."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "slm"


class ModelList(BaseModel):
    """All of them: there is one."""

    object: str = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """Whether it works, and how many stories are being written or wait."""

    status: str
    stories: int


def problem(status: int, message: str, param: str | None = None, headers=None) -> JSONResponse:
    """The answer that tells it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    kind = "rate_limit_error" if status == 429 else kind
    error = {"message": message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": error}, status, headers)


class SmallBodies:
    """Answers 413 to a request of more than `most` bytes, before it is read."""

    def __init__(self, app, most: int):
        self.app, self.most = app, most

    async def __call__(self, scope, receive, send) -> None:
        """Pass a request on, unless it is too large."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        answer = problem(413, f"A request may have at most {self.most:,} bytes.")
        size = dict(scope["headers"]).get(b"content-length", b"0")
        if size.isdigit() and int(size) > self.most:
            return await answer(scope, receive, send)
        body, more = b"", scope["method"] in ("POST", "PUT", "PATCH")
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.most:
                return await answer(scope, receive, send)
        whole = [{"type": "http.request", "body": body, "more_body": False}]

        async def again():
            return whole.pop() if whole else await receive()

        await self.app(scope, again, send)


def create_app(
    model: Transformer,
    tokenizer: Tokenizer,
    name: str = "stories",
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    origins: Sequence[str] = (),
) -> FastAPI:
    """The API of one model. With `api_key`, who asks must bring it as a bearer token; `origins` are
    the web pages that may ask from a browser ("*": all). Raises ValueError where model and
    tokenizer do not fit."""
    model.check_tokenizer(tokenizer)
    limits = limits or Limits()
    began = int(time.time())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.batcher = Batcher(model, tokenizer.eot_id, limits.stories, limits.waiting)
        yield
        await asyncio.to_thread(app.state.batcher.close)

    about = "Stories by a small language model, in the manner of OpenAI's completions."
    # Its /docs are drawn by scripts of its own, not by those of a site that may be out of reach.
    app = FastAPIOffline(title="slm", description=about, lifespan=lifespan, redoc_url=None)
    app.add_middleware(SmallBodies, most=limits.body)
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"],
                           allow_headers=["*"])  # fmt: skip

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]  # never the input: it may be no JSON, and nobody's business
        place = ".".join(str(part) for part in first["loc"][1:]) or None
        return problem(400, f"{place or 'The request'}: {first['msg']}.", place)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        detail = error.detail if isinstance(error.detail, dict) else {"message": f"{error.detail}."}
        return problem(error.status_code, **detail, headers=error.headers)

    async def known(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if api_key and not compare_digest(given.encode(), api_key.encode()):
            raise refuse(401, "Bring the API key, as `Authorization: Bearer KEY`.")

    told = {code: {"model": Problem} for code in (400, 401, 404, 413, 429)}
    how = {"dependencies": [Depends(known)]}

    @app.get("/health")
    async def health(request: Request) -> Health:
        """Whether it works, and how many stories are being written or wait."""
        return Health(status="ok", stories=request.app.state.batcher.busy)

    @app.get("/v1/models", responses={401: {"model": Problem}}, **how)
    async def models() -> ModelList:
        """The model that can be asked."""
        return ModelList(data=[ModelCard(id=name, created=began)])

    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    told[200] = {"model": Completion, "content": stream}

    @app.post("/v1/completions", responses=told, response_model=Completion, **how)
    async def completions(asked: CompletionRequest, request: Request):
        """Write stories: all at once, or with `stream` piece by piece as server-sent events."""
        if asked.model not in (None, name):
            raise refuse(404, f"There is no model {asked.model!r}: use {name!r}.", "model")
        job = Job(asked, tokenizer, limits, name)
        try:
            job.begin(request.app.state.batcher)
        except Full as full:
            raise refuse(429, f"{full} Try again in a moment.", **{"Retry-After": "1"}) from None
        if asked.stream:
            return StreamingResponse(job.events(), media_type="text/event-stream")
        return await job.answer(request)

    return app
