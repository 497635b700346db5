"""A sequence: one story on its way through the server, and the tokens that are written for it."""

from dataclasses import dataclass, field
from typing import Protocol

import torch

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
    generator: torch.Generator = field(default_factory=torch.Generator)
    written: int = 0  # new tokens so far
    cached: int = 0  # tokens whose keys and values are in the cache
    cancelled: bool = False

    def __post_init__(self):
        self.ids = list(self.ids)
        if self.sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(self.sampling.seed)

    def cancel(self) -> None:
        """Write no more of it. Any thread may call this, and more than once."""
        self.cancelled = True
