"""Your own stories: read, cleaned, split between sentences where they are long, some held out."""

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

from slm.stories.cleaning import CLOSERS, ENDS_ANYWHERE, ENDS_BEFORE_SPACE, clean_stories
from slm.stories.files import as_texts
from slm.tokenizer.byte_pair import Tokenizer

# A sentence ends with its last punctuation mark and closing quote, or with the text.
_SENTENCE = re.compile(
    rf"\S.*?(?:[{ENDS_BEFORE_SPACE}]+[{CLOSERS}]*(?=\s)|[{ENDS_ANYWHERE}]+[{CLOSERS}]*|$)\s*",
    re.DOTALL,
)
_WORD = re.compile(r"\S+\s*")
MAX_TOKENS_PER_CHARACTER = 4  # a character has up to four bytes in UTF-8, each at most a token


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

    Only a sentence that is longer than this is split between words, and a word that is longer
    between characters.
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
    """The sentences of a text, each of at most `max_tokens` tokens.

    Instead of a longer one there are its words, and instead of a word that is too long, or in a
    script without spaces, runs of its characters.
    """
    pieces = []
    for sentence in _SENTENCE.findall(text):
        if len(tokenizer.encode(sentence)) <= max_tokens:
            pieces.append(sentence)
            continue
        for word in _WORD.findall(sentence):
            if len(tokenizer.encode(word)) <= max_tokens:
                pieces.append(word)
                continue
            size = max(max_tokens // MAX_TOKENS_PER_CHARACTER, 1)
            pieces.extend(word[start : start + size] for start in range(0, len(word), size))
    return pieces
