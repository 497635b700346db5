"""The way from the thread that decodes to the server's event loop, for one request's tokens."""

import asyncio
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

from slm.serving.sequence import Sequence, Token


@dataclass(frozen=True)
class Update:
    """What has happened to one sequence of the request."""

    index: int
    tokens: list[Token]  # the new ones
    prompt: list[Token] | None = None  # the prompt's, with their log-probabilities
    error: Exception | None = None


class TokenStream:
    """Listens to a request's sequences, and hands over what they tell. With `every_token`, each
    token wakes the event loop; without, only the end of a sequence does."""

    def __init__(self, every_token: bool):
        self._every_token = every_token
        self._held: dict[int, list[Token]] = defaultdict(list)  # by the sequence's index
        self._loop = asyncio.get_running_loop()
        self._updates: asyncio.Queue[Update] = asyncio.Queue()

    async def next(self) -> list[Update]:
        """Wait for something to happen: the updates since the last call, those of one sequence
        joined. So a loop that is behind has less to do for each token."""
        updates = [await self._updates.get()]
        while not self._updates.empty():
            updates.append(self._updates.get_nowait())
        return _joined(updates)

    # Called by the thread that decodes

    def on_prompt(self, sequence: Sequence, tokens: list[Token]) -> None:
        """The prompt has been read."""
        self._put(Update(sequence.index, [], prompt=tokens))

    def on_token(self, sequence: Sequence, token: Token) -> None:
        """A token has been written."""
        held = self._held[sequence.index]
        held.append(token)
        if self._every_token or token.finish_reason:
            self._held[sequence.index] = []
            self._put(Update(sequence.index, held))

    def on_error(self, sequence: Sequence, error: Exception) -> None:
        """A sequence has failed."""
        self._put(Update(sequence.index, [], error=error))

    def _put(self, update: Update) -> None:
        with suppress(RuntimeError):  # the loop may have been closed: then nobody waits any more
            self._loop.call_soon_threadsafe(self._updates.put_nowait, update)


def _joined(updates: list[Update]) -> list[Update]:
    """The new tokens of each sequence as one update; other updates stay as they are."""
    joined: list[Update] = []
    with_tokens: dict[int, Update] = {}  # by the sequence's index
    for update in updates:
        if update.prompt is not None or update.error is not None:
            joined.append(update)
        elif update.index in with_tokens:
            with_tokens[update.index].tokens.extend(update.tokens)
        else:
            joined.append(update)
            with_tokens[update.index] = update
    return joined
