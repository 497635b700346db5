"""One request at work: its sequences in the batch, and their tokens turned into pieces of text."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

from slm.serving.batching import Batcher
from slm.serving.errors import RequestError
from slm.serving.model_runner import CacheTooSmall
from slm.serving.prompts import ReadPrompt
from slm.serving.protocol import Usage
from slm.serving.scheduler import QueueFull
from slm.serving.sequence import Sequence
from slm.serving.stop_sequences import StopMatcher
from slm.serving.story_output import Piece, StoryOutput
from slm.serving.token_stream import TokenStream, Update
from slm.serving.validation import StoryRequest
from slm.tokenizer.byte_pair import Tokenizer


class StoryJob:
    """Writes the stories of one request, `n` for each prompt. It must be cancelled in the end."""

    def __init__(
        self,
        request: StoryRequest,
        prompts: list[ReadPrompt],
        tokenizer: Tokenizer,
        batcher: Batcher,
        client: str = "",  # who asks: the batch is shared out among clients
        max_unread: int | None = None,  # tokens of a streamed story written ahead of its reader
    ):
        self.id = uuid.uuid4().hex
        self.request = request
        self._client = client
        self._max_unread = max_unread if request.stream else None
        self._batcher = batcher
        self._stream = TokenStream(every_token=request.stream or bool(request.stops))
        self._prompts: list[ReadPrompt] = []  # one for each story
        self._outputs: list[StoryOutput] = []
        self._sequences: list[Sequence] = []
        for prompt in prompts:
            for copy in range(request.n):
                self._add_story(prompt, copy, tokenizer)

    def _add_story(self, prompt: ReadPrompt, copy: int, tokenizer: Tokenizer) -> None:
        request = self.request
        index = len(self._outputs)
        ids = prompt.ids
        if ids[:1] != [tokenizer.bos_id]:
            ids = [tokenizer.bos_id, *ids]
        sampling = request.sampling
        if sampling.seed is not None:  # each of the n stories is another, and the same each time
            sampling = replace(sampling, seed=sampling.seed + copy)
        self._sequences.append(
            Sequence(
                ids,
                sampling,
                self._stream,
                max_new_tokens=request.max_tokens,
                index=index,
                logprobs=request.logprobs,
                prompt_logprobs=request.echo and request.logprobs is not None,
                request_id=self.id,
                client=self._client,
                max_unread=self._max_unread,
            )
        )
        self._prompts.append(prompt)
        self._outputs.append(
            StoryOutput(
                index,
                prompt.detokenizer.copy(),
                StopMatcher(request.stops),
                tokenizer.eot_id,
                offset=len(prompt.text) if request.echo else 0,
            )
        )

    @property
    def count(self) -> int:
        """How many stories there are."""
        return len(self._outputs)

    def start(self) -> None:
        """Have the stories written. Raises RequestError where too many wait already (429), or one
        is too long for the key-value cache (400)."""
        try:
            self._batcher.submit(*self._sequences)
        except CacheTooSmall as error:
            raise RequestError(400, str(error), "max_tokens") from None
        except QueueFull as full:
            raise _too_many_requests(full) from None

    async def pieces(self) -> AsyncIterator[Piece]:
        """The stories' text as it is written, in turns, until all are finished. Raises what the
        writing of a story has raised."""
        if self.request.echo and self.request.logprobs is None:
            for index, prompt in enumerate(self._prompts):
                yield Piece(index, prompt.text)
        unfinished = set(range(self.count))
        while unfinished:
            for update in await self._stream.next():
                for piece in self._new_pieces(update):
                    if piece.finish_reason:
                        unfinished.discard(piece.index)
                    yield piece
            await asyncio.sleep(0)  # others have their turn, also where there is always more here

    def _new_pieces(self, update: Update) -> list[Piece]:
        if isinstance(update.error, QueueFull):
            raise _too_many_requests(update.error)
        if update.error is not None:
            raise update.error
        self._batcher.mark_read(self._sequences[update.index], len(update.tokens))
        if update.prompt is not None:
            return [self._prompts[update.index].piece(update.index, update.prompt)]
        output = self._outputs[update.index]
        if output.finish_reason:  # by a stop sequence: what was written since is not wanted
            return []
        for token in update.tokens:
            output.add(token)
        if output.finish_reason:
            self._batcher.cancel([self._sequences[update.index]])
        piece = output.next_piece()
        return [] if piece is None else [piece]

    def usage(self) -> Usage:
        """How many tokens were read, each prompt's once, and written."""
        read = sum(len(prompt.ids) for prompt in self.request.prompts)
        written = sum(output.token_count for output in self._outputs)
        return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    def cancel(self) -> None:
        """Write no more."""
        self._batcher.cancel(self._sequences)


def _too_many_requests(full: QueueFull) -> RequestError:
    return RequestError(429, f"{full} Try again in a moment.", headers={"Retry-After": "1"})
