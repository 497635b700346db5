"""The incremental detokenizer: token ids one at a time to text, never half a character."""

from copy import copy

from slm.tokenizer.byte_pair import Tokenizer

REPLACEMENT_CHARACTER = "\ufffd"  # what bytes that are no whole character are decoded to
MAX_PENDING = 8  # a character has up to four bytes: after more tokens than this, it is no character


class IncrementalDetokenizer:
    """Turns a story's tokens into text as they come. A token's text may depend on the one before
    (SentencePiece writes a space between two words, but none before the first), and one character
    may take several tokens. So new tokens are decoded together with the piece before them, and held
    back until they are whole."""

    def __init__(self, tokenizer: Tokenizer):
        self.length = 0  # characters so far: where the next token begins in the text
        self._tokenizer = tokenizer
        self._previous: list[int] = []  # the tokens of the piece before
        self._pending: list[int] = []  # tokens held back: the beginning of a character

    def add(self, token_id: int) -> str:
        """The text that is whole with this token: often the token's own, or an empty one."""
        self._pending = [*self._pending, token_id]
        text = self._pending_text()
        incomplete = not text or text.endswith(REPLACEMENT_CHARACTER)
        if incomplete and len(self._pending) <= MAX_PENDING:
            return ""
        return self._release(text)

    def flush(self) -> str:
        """At the end: what is still held back, with U+FFFD for what is no whole character."""
        return self._release(self._pending_text())

    def copy(self) -> "IncrementalDetokenizer":
        """Another that goes on from here, for one more story with the same beginning."""
        return copy(self)

    def _pending_text(self) -> str:
        if not self._pending:
            return ""
        before = self._tokenizer.decode(self._previous)
        return self._tokenizer.decode([*self._previous, *self._pending])[len(before) :]

    def _release(self, text: str) -> str:
        if self._pending:
            self._previous = self._pending
            self._pending = []
        self.length += len(text)
        return text
