"""Many stories at once, which come and go as they please (optional): continuous batching (Yu et al.
2022, Orca) in its simplest form. One thread decodes; stories join between two tokens."""

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from slm.generation.decoder import NextTokens
from slm.generation.sampling import draw, next_token_probabilities
from slm.model.kv_cache import KVCache
from slm.model.transformer import Transformer, evaluating
from slm.settings import SamplingConfig


class Full(Exception):
    """No room: as many are being written as may be, and as many wait."""


@dataclass(frozen=True)
class Token:
    """One more token of a story."""

    id: int
    logprob: float | None = None  # the natural logarithm of the probability that the model gave it
    top: tuple[tuple[int, float], ...] = ()  # the likeliest, each with the same
    reason: str | None = None  # with the last one: "stop", where it is the end of text, or "length"


@dataclass(eq=False)
class Story:
    """A story that is being written. `on_token` is called for each token, `on_error` if it fails,
    both by the thread that decodes, so that they must be quick."""

    ids: list[int]  # the prompt's, after the token that begins a story; then those written
    sampling: SamplingConfig
    on_token: Callable[[Token], None]
    on_error: Callable[[Exception], None] = lambda error: None
    on_prompt: Callable[[list[Token]], None] | None = None  # given the prompt's tokens, if wanted
    logprobs: int | None = None  # how many of the likeliest to tell; None: no probabilities
    generator: torch.Generator = field(default_factory=torch.Generator)
    cancelled: bool = False
    written: int = 0
    length: int = 0  # tokens in the cache

    def cancel(self) -> None:
        """Write no more of it. It may be called from any thread, and twice."""
        self.cancelled = True


class Batcher:
    """Writes up to `most` stories at once, and lets `waiting` more wait. Close it in the end."""

    def __init__(self, model: Transformer, eot_id: int, most: int = 32, waiting: int = 64):
        self.model, self.eot_id, self.most, self.waiting = model, eot_id, most, waiting
        self._next, self._stories, self._arrived = NextTokens(model), [], deque()
        self._cache = KVCache(model.config, most, model.model.embed_tokens.weight)
        self._changed, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="slm-batcher", daemon=True)
        self._thread.start()

    def submit(self, *stories: Story) -> None:
        """Begin to write some stories as soon as there is room. Raises Full, and begins none, where
        more than `waiting` would wait, or once this is closing."""
        with self._changed:
            if self._closing:
                raise Full("No more stories are begun: this is closing.")
            room = self.waiting + max(self.most - len(self._stories), 0) - len(self._arrived)
            if len(stories) > room:
                raise Full(f"{len(self._stories)} stories are being written and others wait.")
            for story in stories:
                seed = story.sampling.seed
                story.generator.seed() if seed is None else story.generator.manual_seed(seed)
                story.ids = list(story.ids)
            self._arrived.extend(stories)
            self._changed.notify()

    @property
    def busy(self) -> int:
        """How many stories are being written or wait."""
        return len(self._stories) + len(self._arrived)

    def close(self, finish: bool = True) -> None:
        """Stop; with `finish`, when all that was begun or waits has been written."""
        with self._changed:
            self._closing = True
            if not finish:
                for story in [*self._stories, *self._arrived]:
                    story.cancel()
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stories and not self._arrived:
                    if self._closing:
                        return
                    self._changed.wait()
                room = self.most - len(self._stories)
                new = [self._arrived.popleft() for _ in range(min(room, len(self._arrived)))]
            for story in new:
                if not story.cancelled:
                    self._guard([story], self._join, story)
            if self._stories:
                self._guard(self._stories, self._step)

    def _guard(self, stories: list[Story], work: Callable, *given) -> None:
        """Whatever goes wrong ends the stories that it concerns, and never the thread."""
        try:
            work(*given)
        except Exception as error:  # told to those who wait for the stories
            for story in list(stories):
                if story in self._stories:
                    self._leave(story)
                story.on_error(error)

    def _read(self, story: Story, row: int) -> Tensor:
        """Read a story's newest tokens into a row of the cache: logits `(T, V)` of what follows."""
        most = self.model.config.context_length
        keep = story.ids[-most:] if not story.written else story.ids[-(most // 2 or 1) :]
        cache = KVCache(self.model.config, 1, self._cache.layers[0])
        with evaluating(self.model):
            logits = self.model(torch.tensor([keep], device=cache.layers[0].device), cache)
        for mine, layer in zip(self._cache.layers, cache.layers, strict=True):
            mine[row, :, : len(keep)] = layer[0, :, : len(keep)]
        story.length = len(keep)
        return logits[0]

    def _join(self, story: Story) -> None:
        logits = self._read(story, len(self._stories))  # (T, V)
        if story.on_prompt:
            given = story.ids[-story.length :]
            story.on_prompt([self._token(*x, story) for x in zip(given[1:], logits, strict=False)])
        self._stories.append(story)
        self._choose([story], logits[-1:])

    def _leave(self, story: Story) -> None:
        """Free a story's row: the last one moves there."""
        row, last = self._stories.index(story), len(self._stories) - 1
        if row < last:
            length = self._stories[last].length
            for layer in self._cache.layers:
                layer[row, :, :length] = layer[last, :, :length]
            self._stories[row] = self._stories[last]
        self._stories.pop()

    def _step(self) -> None:
        """One more token for each story."""
        for story in [story for story in self._stories if story.cancelled]:
            self._leave(story)
        for story in list(self._stories):
            if story.length == self.model.config.context_length:  # as `generate` does
                self._choose([story], self._read(story, self._stories.index(story))[-1:])
        if not self._stories:
            return
        stories = list(self._stories)
        device = self._cache.layers[0].device
        ids = torch.tensor([story.ids[-1] for story in stories], device=device)
        lengths = torch.tensor([story.length for story in stories], device=device)
        logits = self._next(ids, lengths, self._cache.layers)  # (B, V)
        for story in stories:
            story.length += 1
        self._choose(stories, logits)

    def _choose(self, stories: list[Story], logits: Tensor) -> None:
        """Draw each story's next token from its row of logits `(B, V)`, and tell it."""
        alike = defaultdict(list)
        for row, story in enumerate(stories):
            own = row if story.sampling.repetition_penalty != 1 else None
            alike[replace(story.sampling, seed=None, max_new_tokens=1), own].append(row)
        for (sampling, own), rows in alike.items():
            some, before = logits[rows], None
            if own is not None:
                ids = stories[own].ids
                before = torch.tensor([ids[int(ids[0] == self.eot_id) :]], device=logits.device)
            chances = next_token_probabilities(some, sampling, before)  # (rows, V)
            drawn = [
                int(draw(chances[i : i + 1], stories[row].generator)) for i, row in enumerate(rows)
            ]
            for i, (row, new) in enumerate(zip(rows, drawn, strict=True)):
                self._tell(stories[row], new, some[i])

    def _tell(self, story: Story, new: int, logits: Tensor) -> None:
        story.ids.append(new)
        story.written += 1
        ended, cut = new == self.eot_id, story.written >= story.sampling.max_new_tokens
        if ended or cut:
            self._leave(story)
        reason = "stop" if ended else "length" if cut else None
        # What goes wrong with one who is told is nobody else's concern.
        told = replace(self._token(new, logits, story), reason=reason)
        self._guard([story], story.on_token, told)

    def _token(self, new: int, logits: Tensor, story: Story) -> Token:
        if story.logprobs is None:
            return Token(new)
        logprobs = logits.float().log_softmax(-1)
        likeliest = logprobs.topk(story.logprobs)
        top = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        return Token(new, logprobs[new].item(), tuple(top))
