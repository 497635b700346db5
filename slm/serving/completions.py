"""One request for stories, from what is asked to what is answered, as OpenAI's completions have it
(optional). See https://platform.openai.com/docs/api-reference/completions."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from fastapi import HTTPException, Request

from slm.serving.batching import Batcher, Story, Token
from slm.serving.protocol import Choice, Completion, CompletionRequest, Logprobs, Usage
from slm.settings import Limits, SamplingConfig
from slm.tokenizer.byte_pair import Tokenizer


@dataclass
class Written:
    """A story's text as it grows: when a piece may be sent, and when it is over."""

    tokenizer: Tokenizer
    stops: Sequence[str]
    index: int
    begin: int = 0  # characters echoed before what is written
    text: str = ""
    sent: int = 0  # characters
    told: int = 0  # tokens
    reason: str | None = None
    tokens: list[Token] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    _whole: int | None = None  # the last token that ended with a whole character
    _parts: list[int] = field(default_factory=list)  # tokens since then

    def add(self, token: Token) -> None:
        """Take the next token in."""
        if self.reason:
            return
        if token.id != self.tokenizer.eot_id:
            self.tokens.append(token)
            self.offsets.append(len(self.text))
            self._parts.append(token.id)
        before = [] if self._whole is None else [self._whole]
        new = self.tokenizer.decode([*before, *self._parts])[len(self.tokenizer.decode(before)) :]
        if token.reason or not new.endswith("\ufffd") or len(self._parts) > 8:
            self.text += new
            self._whole = self._parts[-1] if self._parts else self._whole
            self._parts = []
        ends = [place for stop in self.stops if (place := self.text.find(stop)) >= 0]
        if ends:
            self.text, self.reason = self.text[: min(ends)], "stop"
            while self.offsets and self.offsets[-1] >= len(self.text):
                self.tokens.pop(), self.offsets.pop()
        else:
            self.reason = token.reason

    def piece(self) -> Choice | None:
        """What may be sent now: all that cannot be the beginning of a stop."""
        safe = len(self.text)
        if not self.reason:
            begun = [n for x in self.stops for n in range(1, len(x)) if self.text.endswith(x[:n])]
            safe -= max(begun, default=0)
        if safe <= self.sent and not self.reason:
            return None
        count = len(self.tokens)
        if not self.reason:
            count = sum(offset < safe for offset in self.offsets)
        logprobs = self.logprobs(self.told, count)
        piece = Choice(text=self.text[self.sent : safe], index=self.index, logprobs=logprobs,
                       finish_reason=self.reason)  # fmt: skip
        self.sent, self.told = safe, count
        return piece

    def logprobs(self, start: int = 0, end: int | None = None) -> Logprobs | None:
        """Of the tokens from one to another; None where they were not asked for."""
        tokens = self.tokens[start:end]
        if not tokens or tokens[0].logprob is None:
            return None
        offsets = [self.begin + offset for offset in self.offsets[start:end]]
        return logprobs_of(self.tokenizer, tokens, offsets)


def logprobs_of(tokenizer: Tokenizer, tokens: Sequence[Token], offsets: list[int]) -> Logprobs:
    """Tokens' probabilities in OpenAI's form."""
    name = lambda i: tokenizer.pieces([i])[0]  # noqa: E731
    top = [{name(i): value for i, value in token.top} or None for token in tokens]
    return Logprobs(
        tokens=[name(token.id) for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=top,
        text_offset=offsets,
    )


def refuse(status: int, message: str, param: str | None = None, **headers: str) -> HTTPException:
    """An error that is told in one sentence."""
    return HTTPException(status, {"message": message, "param": param}, headers or None)


class Job:
    """One request on its way. Raises HTTPException for what cannot be done."""

    def __init__(self, asked: CompletionRequest, tokenizer: Tokenizer, limits: Limits, name: str):
        self.asked, self.tokenizer, self.name = asked, tokenizer, name
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        for where, texts in (("prompt", prompts), ("stop", stops)):
            for text in texts:
                if any("\ud800" <= sign <= "\udfff" for sign in text):
                    raise refuse(400, f"{where} has half of a character (a surrogate).", where)
        count = len(prompts) * asked.n
        self.max_tokens = min(400, limits.tokens) if asked.max_tokens is None else asked.max_tokens
        wrong = {
            "prompt": not prompts or max(map(len, prompts)) > limits.prompt,
            "n": count > limits.stories,
            "max_tokens": self.max_tokens > limits.tokens,
            "best_of": asked.best_of not in (None, asked.n),
            "stop": len(stops) > 16 or not all(0 < len(stop) <= 200 for stop in stops),
        }
        sentences = {
            "prompt": f"Give one prompt or more, each of at most {limits.prompt:,} characters",
            "n": f"Ask for at most {limits.stories} stories at once, not {count}",
            "max_tokens": f"max_tokens must be at most {limits.tokens:,}, not {self.max_tokens:,}",
            "best_of": "best_of must be as n, or left out",
            "stop": "stop must be up to 16 texts of 1 to 200 characters",
        }
        for where in (where for where in wrong if wrong[where]):
            raise refuse(400, f"{sentences[where]}.", where)
        self.prompts = [prompt for prompt in prompts for _ in range(asked.n)]
        encoded = [tokenizer.encode(prompt) for prompt in prompts]
        self.read = sum(map(len, encoded))
        self.ids = [ids for ids in encoded for _ in range(asked.n)]
        self.written = [Written(tokenizer, stops, i) for i in range(count)]
        self.echoed: list[Logprobs | None] = [None] * count
        if asked.echo:
            for written, prompt in zip(self.written, self.prompts, strict=True):
                written.begin = len(prompt)
        self.id, self.created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        self.stories: list[Story] = []
        self.news: asyncio.Queue = asyncio.Queue()

    def begin(self, batcher: Batcher) -> None:
        """Have the stories written. Raises Full."""
        asked, loop = self.asked, asyncio.get_running_loop()
        sampling = dict(temperature=asked.temperature, top_k=asked.top_k, min_p=asked.min_p)
        sampling |= dict(top_p=asked.top_p if asked.top_p < 1 else None)
        sampling |= dict(repetition_penalty=asked.repetition_penalty)
        for i, ids in enumerate(self.ids):
            seed = None if asked.seed is None else asked.seed + i % asked.n
            config = SamplingConfig(**sampling, seed=seed, max_new_tokens=max(self.max_tokens, 1))
            tell = partial(self._tell, loop, i, [])
            story = Story([self.tokenizer.bos_id, *ids], config, tell, logprobs=asked.logprobs)
            story.on_error = partial(self._put, loop, i)
            if asked.echo and asked.logprobs is not None:
                story.on_prompt = partial(self._prompt, i)
            self.stories.append(story)
        batcher.submit(*self.stories)

    def _tell(self, loop, i: int, kept: list[Token], token: Token) -> None:
        """Called for each token, by the thread that decodes. It wakes the server only if somebody
        waits for this very token."""
        kept.append(token)
        if token.reason or self.asked.stream or self.asked.stop:
            self._put(loop, i, list(kept))
            kept.clear()

    def _put(self, loop, i: int, news) -> None:
        with suppress(RuntimeError):  # the loop may be closed at any moment: then nobody waits
            loop.call_soon_threadsafe(self.news.put_nowait, (i, news))

    def _prompt(self, i: int, tokens: list[Token]) -> None:
        """The prompt's own probabilities; the first token has none."""
        ids = self.ids[i][-len(tokens) :] if tokens else []
        offsets = [len(self.tokenizer.decode(ids[:place])) for place in range(len(ids))]
        self.echoed[i] = logprobs_of(self.tokenizer, tokens, offsets)

    async def changes(self) -> AsyncIterator[Written]:
        """The stories one after the other as they grow, until all are finished."""
        open_ = set(range(len(self.written)))
        while open_:
            i, news = await self.news.get()
            if isinstance(news, Exception):
                raise RuntimeError("A story could not be written.") from news
            written = self.written[i]
            for token in news:
                written.add(token)
            if i not in open_:
                continue
            if written.reason:
                open_.discard(i)
                self.stories[i].cancel()
            yield written

    async def events(self) -> AsyncIterator[str]:
        """The answer as server-sent events."""
        try:
            if self.asked.echo:
                for i, prompt in enumerate(self.prompts):
                    yield self._event([Choice(text=prompt, index=i, finish_reason=None)])
            async for written in self.changes():
                if piece := self._cut(written).piece():
                    yield self._event([piece])
            if self.asked.stream_options and self.asked.stream_options.include_usage:
                yield self._event([], self.usage())
            yield "data: [DONE]\n\n"
        except RuntimeError as error:
            detail = {"message": str(error), "type": "server_error", "param": None, "code": None}
            yield f"data: {json.dumps({'error': detail})}\n\n"
        finally:
            self.cancel()

    def _cut(self, written: Written) -> Written:
        """With `max_tokens=0` only the prompt is wanted."""
        if self.max_tokens == 0:
            written.text, written.reason = "", "length"
            written.tokens, written.offsets = [], []
        return written

    def _event(self, choices: list[Choice], usage: Usage | None = None) -> str:
        return f"data: {self.completion(choices, usage).model_dump_json()}\n\n"

    async def answer(self, request: Request) -> Completion:
        """The answer in one; given up where nobody waits for it any more."""

        async def gone() -> None:
            while not await request.is_disconnected():
                await asyncio.sleep(0.2)

        async def finish() -> None:
            async for _ in self.changes():
                pass

        tasks = [asyncio.create_task(work()) for work in (finish, gone)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not tasks[0].done():
                raise refuse(400, "The client is gone.")
            tasks[0].result()
        finally:
            self.cancel()
            for task in tasks:
                task.cancel()
        return self.completion([self.choice(self._cut(x)) for x in self.written], self.usage())

    def choice(self, written: Written) -> Choice:
        """A finished story, after its prompt where that is to be echoed."""
        text, logprobs = written.text, written.logprobs()
        if self.asked.echo:
            text, before = self.prompts[written.index] + text, self.echoed[written.index]
            if before:
                parts = [part for part in (before, logprobs) if part]
                join = lambda name: list(chain(*(getattr(part, name) for part in parts)))  # noqa: E731
                logprobs = Logprobs(**{name: join(name) for name in Logprobs.model_fields})
        return Choice(
            text=text, index=written.index, logprobs=logprobs, finish_reason=written.reason
        )

    def completion(self, choices: list[Choice], usage: Usage | None) -> Completion:
        """An answer with some choices."""
        facts = dict(id=self.id, created=self.created, model=self.name)
        return Completion(**facts, choices=choices, usage=usage)

    def usage(self) -> Usage:
        """What it took."""
        written = sum(len(some.tokens) for some in self.written)
        total = self.read + written
        return Usage(prompt_tokens=self.read, completion_tokens=written, total_tokens=total)

    def cancel(self) -> None:
        """Write no more."""
        for story in self.stories:
            story.cancel()
