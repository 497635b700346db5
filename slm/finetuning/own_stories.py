"""Your own stories: read, cleaned, split between sentences where they are long, some held out."""

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

from slm.stories.cleaning import clean_stories
from slm.stories.files import as_texts
from slm.tokenizer.byte_pair import Tokenizer

# A sentence goes to its last punctuation mark and closing quote, before a space, or to the end.
_SENTENCE = re.compile(r"\S.*?(?:[.!?…]+[\"'”’»)\]]*(?=\s)|$)\s*", re.DOTALL)
_WORD = re.compile(r"\S+\s*")


def own_stories(
    source: str | Path | Sequence[str],
    tokenizer: Tokenizer,
    max_tokens: int,
    held_out: float,
    seed: int,
) -> tuple[list[str], list[str]]:
    """Your stories, cleaned: those to train on and, a share `held_out`, those to measure by.

    Long ones are in parts of at most `max_tokens` tokens. Raises ValueError where there are too few
    stories, FileNotFoundError where there is no such file.
    """
    stories, cleaning = clean_stories(as_texts(source))
    if len(stories) < 2:
        raise ValueError(
            f"Too few stories to learn from ({len(stories)} of {cleaning.stories_read} are left "
            "after cleaning): give two or more, better ten."
        )
    Random(seed).shuffle(stories)
    count = max(1, round(held_out * len(stories)))
    # Held out as whole stories: a part of one says too much about its other parts.
    return (
        _split_all(stories[count:], tokenizer, max_tokens),
        _split_all(stories[:count], tokenizer, max_tokens),
    )


def _split_all(stories: list[str], tokenizer: Tokenizer, max_tokens: int) -> list[str]:
    parts = []
    for story in stories:
        parts.extend(split_long(story, tokenizer, max_tokens))
    return parts


def split_long(text: str, tokenizer: Tokenizer, max_tokens: int) -> list[str]:
    """Split a text into parts of at most `max_tokens` tokens, between sentences.

    Only a sentence that is longer than this is split between words.
    """
    parts = []
    part = ""
    part_tokens = 0
    for piece in _short_pieces(text, tokenizer, max_tokens):
        piece_tokens = len(tokenizer.encode(piece))
        if part and part_tokens + piece_tokens > max_tokens:
            parts.append(part)
            part = ""
            part_tokens = 0
        part += piece
        part_tokens += piece_tokens
    parts.append(part)
    return [part.strip() for part in parts if part.strip()]


def _short_pieces(text: str, tokenizer: Tokenizer, max_tokens: int) -> list[str]:
    """The sentences of a text, with the words of each sentence that is too long instead of it."""
    pieces = []
    for sentence in _SENTENCE.findall(text):
        if len(tokenizer.encode(sentence)) <= max_tokens:
            pieces.append(sentence)
        else:
            pieces.extend(_WORD.findall(sentence))
    return pieces
