"""Cleaning stories: what is broken is repaired or dropped, and counted."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from ftfy import fix_encoding

END = "<|endoftext|>"  # what stands between two stories in a text file


SHORTEST = 50  # characters: anything shorter is a scrap, not a story


# The closing quote, in UTF-8 E2 80 9D, often lost its last byte, which Windows-1252 does not have.
_LOST_QUOTE = re.compile("â€(?![“”˜™šœž¦¢\x93\x94\x98-\x9e])")


_USELESS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\ufeff\ud800-\udfff]")  # and invisible


_ENDED = re.compile(r"(?:[.!?…][\s\"'”’»)\]*]*|the end)$", re.IGNORECASE)


@dataclass(frozen=True)
class Cleaning:
    """What cleaning did, counted in stories; printed, it is a small table."""

    stories_read: int
    mojibake_repaired: int
    whitespace_tidied: int
    duplicates_dropped: int
    fragments_dropped: int
    stories_kept: int

    def __str__(self) -> str:
        rows = asdict(self).items()
        return "\n".join(f"{name.replace('_', ' '):<20}{count:>9,}" for name, count in rows)


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
    return text if text.isascii() else fix_encoding(_LOST_QUOTE.sub("â€\x9d", text))


def tidy_whitespace(text: str) -> str:
    """Drop control characters; leave one kind of space and newline, and none of them to spare."""
    text = _USELESS.sub("", re.sub("\r\n?|[\x0b\x0c\x85\u2028\u2029]", "\n", text))
    text = re.sub(r"[^\S\n]+", " ", text).replace(" \n", "\n")
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def clean_stories(
    stories: Iterable[str], *, ended: bool = False, without: Iterable[str] = (), most: int = 10**9
) -> tuple[list[str], Cleaning]:
    """Clean every story, drop fragments and repeats, and count what was done.
    A fragment has fewer than 50 characters or, with `ended`, stops in the middle of a sentence.
    What is in `without` counts as a repeat. Reading stops as soon as `most` are kept."""
    kept, seen = [], set(without)
    read = repaired = tidied = repeats = fragments = 0
    for story in stories:
        if len(kept) == most:
            break
        mended = repair_mojibake(story)
        text = tidy_whitespace(mended)
        read, repaired, tidied = read + 1, repaired + (mended != story), tidied + (text != mended)
        if len(text) < SHORTEST or (ended and not _ENDED.search(text)):
            fragments += 1
        elif text in seen:
            repeats += 1
        else:
            seen.add(text)
            kept.append(text)
    return kept, Cleaning(read, repaired, tidied, repeats, fragments, len(kept))
