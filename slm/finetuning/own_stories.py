"""Your own stories: read, cleaned, split between sentences where they are long, some held out."""

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

from slm.stories.cleaning import clean_stories
from slm.stories.files import read_stories
from slm.tokenizer.byte_pair import Tokenizer

_SENTENCE = re.compile(r"\S.*?(?:[.!?…]+[\"'”’»)\]]*(?=\s)|$)\s*", re.DOTALL)


def split_long(text: str, tokenizer: Tokenizer, most: int) -> list[str]:
    """Cut a text into parts of at most `most` tokens, between sentences. Only a sentence that is
    longer than this is cut between words."""
    parts, length = [""], 0
    for sentence in _SENTENCE.findall(text):
        size = len(tokenizer.encode(sentence))
        pieces = [sentence] if size <= most else re.findall(r"\S+\s*", sentence)
        for piece in pieces:
            size = len(tokenizer.encode(piece))
            if length and length + size > most:
                parts.append("")
                length = 0
            parts[-1] += piece
            length += size
    return [part.strip() for part in parts if part.strip()]


def own_stories(
    source: str | Path | Sequence[str], tokenizer: Tokenizer, most: int, held_out: float, seed: int
) -> tuple[list[str], list[str]]:
    """Your stories, cleaned, and in parts of at most `most` tokens: those to learn from and those
    held out. ValueError where there are too few, FileNotFoundError where there is no such file."""
    texts = read_stories(source) if isinstance(source, str | Path) else list(source)
    kept, cleaning = clean_stories(texts)
    if len(kept) < 2:
        few = f"{len(kept)} of {cleaning.stories_read} are left after cleaning"
        raise ValueError(f"Too few stories to learn from ({few}): give two or more, better ten.")
    Random(seed).shuffle(kept)
    held = max(1, round(held_out * len(kept)))
    split = lambda some: [part for x in some for part in split_long(x, tokenizer, most)]  # noqa: E731
    return split(kept[held:]), split(kept[:held])
