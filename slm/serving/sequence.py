"""A sequence: one story on its way through the server, and the tokens that are written for it."""

from dataclasses import dataclass, field
from typing import Protocol

import torch

from slm.generation.sampling import new_generator
from slm.settings import SamplingConfig


@dataclass(frozen=True)
class Token:
    """One more token of a sequence."""

    id: int
    logprob: float | None = None  # the natural logarithm of the probability the model gave it
    top_logprobs: tuple[tuple[int, float], ...] = ()  # the likeliest ids, each with the same
    finish_reason: str | None = None  # of the last one: "stop" (the end-of-text token) or "length"


class Listener(Protocol):
    """Who is told of a sequence's tokens. The thread that decodes calls these methods, so they
    must be quick."""

    def on_prompt(self, sequence: "Sequence", tokens: list[Token]) -> None:
        """The prompt has been read: its tokens' log-probabilities, if they were asked for."""

    def on_token(self, sequence: "Sequence", token: Token) -> None:
        """A token has been written."""

    def on_error(self, sequence: "Sequence", error: Exception) -> None:
        """The sequence has failed; nothing more comes."""


@dataclass(eq=False)
class Sequence:
    """One story that is being written, or waits to be."""

    ids: list[int]  # the prompt's, after the token that begins a story; then those written
    sampling: SamplingConfig
    listener: Listener
    max_new_tokens: int
    index: int = 0  # among the sequences of its request
    logprobs: int | None = None  # how many of the likeliest tokens to report; None: no logprobs
    prompt_logprobs: bool = False  # report the prompt's tokens too
    request_id: str = ""  # the same for all sequences of one request
    client: str = ""  # who asks: rows are shared out among clients
    max_unread: int | None = None  # tokens written ahead of a slow reader; None: any number
    generator: torch.Generator = field(init=False)
    written: int = 0  # new tokens so far
    read: int = 0  # of these, how many the client has taken
    preempted_length: int = 0  # how many tokens the cache held when it was taken out of the batch
    cancelled: bool = False

    def __post_init__(self):
        self.ids = list(self.ids)
        self.generator = new_generator(self.sampling.seed)

    @property
    def outruns_reader(self) -> bool:
        """Whether so much is unread that the sequence should pause."""
        return self.max_unread is not None and self.written - self.read >= self.max_unread

    @property
    def has_reader(self) -> bool:
        """Whether so much has been read that a paused sequence should go on."""
        return self.max_unread is None or self.written - self.read <= self.max_unread // 2

    def max_length(self, context_length: int) -> int:
        """How many tokens of the cache it may come to need."""
        return min(context_length, len(self.ids) + self.max_new_tokens - self.written)

    def cancel(self) -> None:
        """Write no more of it. Any thread may call this, and more than once."""
        self.cancelled = True
