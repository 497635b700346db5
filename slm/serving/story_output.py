"""A story's text as it grows: which piece of it may be shown, and when it is over."""

from dataclasses import dataclass

from slm.serving.sequence import Token
from slm.serving.stop_sequences import StopMatcher
from slm.tokenizer.detokenizer import IncrementalDetokenizer


@dataclass(frozen=True)
class Piece:
    """The next piece of a story's text, and the tokens that begin in it."""

    index: int  # of the story in its request
    text: str
    tokens: tuple[Token, ...] = ()
    offsets: tuple[int, ...] = ()  # where each token begins, in characters of the answer's text
    finish_reason: str | None = None


class StoryOutput:
    """Takes a story's new tokens and gives their text in pieces, up to a stop sequence."""

    def __init__(
        self,
        index: int,
        detokenizer: IncrementalDetokenizer,  # which has read the prompt
        stops: StopMatcher,
        eot_id: int,
        offset: int = 0,  # characters of the answer before this text: an echoed prompt
    ):
        self.index = index
        self.finish_reason: str | None = None
        self._detokenizer = detokenizer
        self._stops = stops
        self._eot_id = eot_id
        self._offset = offset
        self._text = ""
        self._tokens: list[Token] = []
        self._starts: list[int] = []  # where each token begins in `_text`
        self._shown_text = 0  # characters that were given in a piece
        self._shown_tokens = 0

    @property
    def token_count(self) -> int:
        """How many tokens were written, without the one that ends a story and without what a stop
        sequence cut off."""
        return sum(token.id != self._eot_id for token in self._tokens)

    def add(self, token: Token) -> None:
        """Take in the next token. After the end, it is ignored."""
        if self.finish_reason:
            return
        old_length = len(self._text)
        if token.id != self._eot_id:
            self._append(token)
            self._text += self._detokenizer.add(token.id)
        elif token.finish_reason == "stop":  # not in the text, but its log-probability is reported
            self._append(token)
        if token.finish_reason:
            self._text += self._detokenizer.flush()
        self.finish_reason = token.finish_reason
        stop = self._stops.find(self._text, old_length)
        if stop is not None:
            self._cut(stop)

    def _append(self, token: Token) -> None:
        self._tokens.append(token)
        self._starts.append(len(self._text))

    def _cut(self, end: int) -> None:
        """End the story before a stop sequence."""
        self._text = self._text[:end]
        self.finish_reason = "stop"
        while self._starts and self._starts[-1] >= end:
            self._tokens.pop()
            self._starts.pop()

    def next_piece(self) -> Piece | None:
        """What may be shown by now and has not been; None where that is nothing."""
        text_end = len(self._text)
        token_end = len(self._tokens)
        if not self.finish_reason:
            text_end -= self._stops.held_back(self._text)
            if text_end <= self._shown_text:
                return None
            new_starts = self._starts[self._shown_tokens :]
            token_end = self._shown_tokens + sum(start < text_end for start in new_starts)
        starts = self._starts[self._shown_tokens : token_end]
        piece = Piece(
            index=self.index,
            text=self._text[self._shown_text : text_end],
            tokens=tuple(self._tokens[self._shown_tokens : token_end]),
            offsets=tuple(self._offset + start for start in starts),
            finish_reason=self.finish_reason,
        )
        self._shown_text = text_end
        self._shown_tokens = token_end
        return piece
