"""Work that is given up when the client who waits for it goes away."""

import asyncio
from collections.abc import Coroutine

from fastapi import Request

from slm.serving.errors import RequestError

SECONDS_BETWEEN_CHECKS = 0.2


async def unless_disconnected(request: Request, work: Coroutine) -> None:
    """Do the work to its end, or until the client is gone; then RequestError is raised."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestError(400, "The client is gone.")
        working.result()
    finally:
        working.cancel()
        watching.cancel()


async def _disconnected(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(SECONDS_BETWEEN_CHECKS)
