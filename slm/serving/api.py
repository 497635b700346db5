"""An API that existing clients speak: OpenAI's completions and chat completions (optional).
`slm serve` starts it; README.md beside this file says how a request goes through the server."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline

from slm.model.transformer import Transformer
from slm.serving.batching import Batcher
from slm.serving.body_limit import BodyLimit
from slm.serving.errors import UnexpectedErrors, add_error_handlers
from slm.serving.routes import ServedModel, public, require_api_key, router
from slm.settings import ServerLimits
from slm.tokenizer.byte_pair import Tokenizer

DESCRIPTION = """Stories by a small language model, in the manner of OpenAI's API.

One request may ask for {limits.stories} stories of {limits.tokens:,} tokens. So many are written at
a time, shared out among clients, and {limits.waiting} more may wait: then the answer is 429.
{limits.connections} connections may be open: then it is 503. Both say in the header `Retry-After`
after how many seconds to try again."""


def create_app(
    model: Transformer,
    tokenizer: Tokenizer,
    name: str = "stories",
    *,
    limits: ServerLimits | None = None,
    api_key: str | None = None,
    origins: Sequence[str] = (),
) -> FastAPI:
    """The API of one model. With `api_key`, clients must bring it as a bearer token; `origins` are
    the web pages that may ask from a browser ("*": all). Raises ValueError where model and
    tokenizer do not fit together."""
    model.check_vocabulary(tokenizer.vocab_size)
    limits = limits or ServerLimits()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.batcher = Batcher(
            model,
            tokenizer.end_ids,
            max_batch_size=limits.stories,
            max_waiting=limits.waiting,
            max_cache_bytes=limits.cache_megabytes * 1e6,
        )
        app.state.reading = asyncio.Lock()  # of long prompts: see routes.new_job
        yield
        await asyncio.to_thread(app.state.batcher.close)

    # Its /docs are drawn by scripts of its own, not by those of a site that may be out of reach.
    description = DESCRIPTION.format(limits=limits)
    app = FastAPIOffline(title="slm", description=description, lifespan=lifespan, redoc_url=None)
    app.state.served_model = ServedModel(name, int(time.time()), tokenizer, limits, api_key)
    app.include_router(public)
    key_needed = [Depends(require_api_key)] if api_key else []
    app.include_router(router, dependencies=key_needed)
    add_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=limits.body, max_seconds=limits.body_seconds)
    app.add_middleware(UnexpectedErrors)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin.rstrip("/") for origin in origins],  # browsers send no slash
            allow_methods=["*"],
            allow_headers=["*"],
        )
    return app
