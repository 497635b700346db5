"""The incremental detokenizer: token ids one at a time to text, never half a character."""

from collections.abc import Iterable
from copy import copy
from typing import Protocol

REPLACEMENT_CHARACTER = "\ufffd"  # what bytes that are no whole character are decoded to
MAX_PENDING = 8  # tokens held back for the end of a character
LONGEST_BEGINNING = 3  # tokens that may begin a character: it has up to four bytes


class SupportsDecode(Protocol):
    """What the detokenizer needs of a tokenizer."""

    def decode(self, ids: list[int]) -> str:
        """The text of all ids."""

    def joins_next(self, token_id: int) -> bool:
        """Whether a token is decoded together with those after it, whatever they are."""


class IncrementalDetokenizer:
    """Turns a story's tokens into text as they come; joined, its pieces are what `decode` gives.

    A token's text may depend on the one before (SentencePiece writes a space between two words, but
    none before the first), and one character may take several tokens. So new tokens are decoded
    together with the piece before them, and held back until they are whole.
    """

    def __init__(self, tokenizer: SupportsDecode, before: Iterable[int] = ()):
        """Start a new text, or continue after the tokens `before`."""
        self.length = 0  # characters so far: where the next token begins in the text
        self._tokenizer = tokenizer
        self._previous = list(before)  # the tokens of the piece before
        self._pending: list[int] = []  # tokens held back: the beginning of a character

    def add(self, token_id: int) -> str:
        """Add a token; return the text that is now complete: often the token's own, or none."""
        self._pending = [*self._pending, token_id]  # a new list, since copies share the old one
        if self._tokenizer.joins_next(token_id):
            return ""
        text = self._continuation(self._previous, self._pending)
        if not text and len(self._pending) <= MAX_PENDING:
            return ""
        if text.endswith(REPLACEMENT_CHARACTER):
            return self._release_broken(text)
        return self._release(text, len(self._pending))

    def flush(self) -> str:
        """At the end: what is still held back, with U+FFFD for what is no whole character."""
        text = self._continuation(self._previous, self._pending)
        return self._release(text, len(self._pending))

    def flush_whole(self) -> str:
        """At the end of a prompt: what is held back, unless it ends with half a character, which
        what follows may complete.
        """
        text = self._continuation(self._previous, self._pending)
        if text.endswith(REPLACEMENT_CHARACTER):
            return ""
        return self._release(text, len(self._pending))

    def copy(self) -> "IncrementalDetokenizer":
        """Another that goes on from here, for one more story with the same beginning."""
        return copy(self)

    def _release_broken(self, text: str) -> str:
        """Of many pending tokens that end with half a character, release those before it.

        The cut is made where both parts, decoded one after the other, give the same text.
        """
        if len(self._pending) <= MAX_PENDING:
            return ""
        for length in range(LONGEST_BEGINNING, 0, -1):
            head = self._pending[:-length]
            tail = self._pending[-length:]
            head_text = self._continuation(self._previous, head)
            if head_text + self._continuation(head, tail) == text:
                return self._release(head_text, len(head))
        return self._release(text, len(self._pending))

    def _continuation(self, context: list[int], new: list[int]) -> str:
        """The text of `new` tokens where they follow others."""
        if not new:
            return ""
        before = self._tokenizer.decode(context)
        return self._tokenizer.decode([*context, *new])[len(before) :]

    def _release(self, text: str, tokens: int) -> str:
        """Give out the text of the first pending tokens."""
        if tokens:
            self._previous = self._pending[:tokens]
            self._pending = self._pending[tokens:]
        self.length += len(text)
        return text
