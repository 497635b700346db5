"""Cleaning stories: what is broken is repaired or dropped, and counted."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from ftfy import fix_encoding

END = "<|endoftext|>"  # separates two stories in a text file
SHORTEST = 50  # letters: anything shorter is a fragment, not a story

# Where a sentence may end, and what may close a quotation after it. Chinese and Japanese put no
# space between sentences, and Hindi's danda stands nowhere else; other marks end a sentence only
# before a space: think of 3.14.
ENDS_BEFORE_SPACE = ".!?…؟۔։።"
ENDS_ANYWHERE = "。！？｡।॥။។"
CLOSERS = "\"'”’»)\\]」』】》〉）｣"  # within [] of a regular expression
# Characters that say as much as several letters: Chinese characters, kana and Korean syllables.
DENSE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
LETTERS_PER_DENSE_CHARACTER = 3

# Windows-1252 has no character for the last byte of a closing quote, which in UTF-8 is E2 80 9D;
# so that byte is often lost, and the ftfy library needs it back to recognise the quote.
_QUOTE_WITHOUT_LAST_BYTE = re.compile("â€(?![“”˜™šœž¦¢\x93\x94\x98-\x9e])")
_OTHER_LINE_BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Control characters, and characters that are neither visible nor a space.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\ufeff\ud800-\udfff]")
_SENTENCE_END = re.compile(
    rf"(?:[{ENDS_BEFORE_SPACE}{ENDS_ANYWHERE}][\s*{CLOSERS}]*|the end)$", re.IGNORECASE
)
_DENSE_CHARACTER = re.compile(f"[{DENSE}]")


@dataclass(frozen=True)
class Cleaning:
    """How many stories each step of cleaning changed or dropped; printed, it is a small table."""

    stories_read: int
    mojibake_repaired: int
    whitespace_tidied: int
    duplicates_dropped: int
    fragments_dropped: int
    stories_kept: int

    def __str__(self) -> str:
        rows = []
        for item in fields(self):
            label = item.name.replace("_", " ")
            count = getattr(self, item.name)
            rows.append(f"{label:<20}{count:>9,}")
        return "\n".join(rows)

    def __add__(self, other: "Cleaning") -> "Cleaning":
        """The counts of two cleanings together."""
        names = [item.name for item in fields(self)]
        return Cleaning(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True)
class Stories:
    """Clean stories, none of them both in `train` and in `validation`."""

    train: list[str] = field(repr=False)
    validation: list[str] = field(repr=False)
    source: str  # a short name, fit for the title of a plot
    is_practice: bool
    cleaning: Cleaning


def repair_mojibake(text: str) -> str:
    """Undo the reading of UTF-8 as Windows-1252 (`â€œLetâ€™s go!â€`), where that is certain."""
    if text.isascii():
        return text
    return fix_encoding(_QUOTE_WITHOUT_LAST_BYTE.sub("â€\x9d", text))


def tidy_whitespace(text: str) -> str:
    """Drop control characters, and normalise whitespace.

    Every space becomes a plain one and every line break "\\n"; of several spaces one remains, of
    several blank lines one, and none at the beginning or the end.
    """
    text = _OTHER_LINE_BREAKS.sub("\n", text)
    text = _INVISIBLE.sub("", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    text = text.replace(" \n", "\n")
    text = re.sub(r"\n{3,}", "\n\n", text)
    return text.strip()


def letter_count(text: str) -> int:
    """The length of a text in letters, comparable between scripts."""
    if text.isascii():
        return len(text)
    dense = len(_DENSE_CHARACTER.findall(text))
    return len(text) + (LETTERS_PER_DENSE_CHARACTER - 1) * dense


def clean_stories(
    stories: Iterable[str],
    *,
    ended: bool = False,
    without: Iterable[str] = (),
    limit: int | None = None,
) -> tuple[list[str], Cleaning]:
    """Clean every story, drop fragments and duplicates, and count what was done.

    A fragment has fewer than 50 letters (17 characters of Chinese, Japanese or Korean) or, with
    `ended`, stops in the middle of a sentence.
    Stories in `without` count as duplicates. Reading stops as soon as `limit` stories are kept.
    """
    kept: list[str] = []
    seen = set(without)
    read = 0
    repaired = 0
    tidied = 0
    duplicates = 0
    fragments = 0
    for story in stories:
        if len(kept) == limit:
            break
        read += 1
        decoded = repair_mojibake(story)
        if decoded != story:
            repaired += 1
        text = tidy_whitespace(decoded)
        if text != decoded:
            tidied += 1
        if letter_count(text) < SHORTEST or (ended and not _SENTENCE_END.search(text)):
            fragments += 1
        elif text in seen:
            duplicates += 1
        else:
            seen.add(text)
            kept.append(text)
    return kept, Cleaning(read, repaired, tidied, duplicates, fragments, len(kept))
