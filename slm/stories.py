"""Stories to learn from: your own, the hub's TinyStories, or a practice corpus; always cleaned."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random

from ftfy import fix_encoding

END = "<|endoftext|>"  # what stands between two stories in a text file
SHORTEST = 50  # characters: anything shorter is a scrap, not a story
PRACTICE = "practice corpus"
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


def load_stories(source: str | Path | None = None, *, n: int = 15_000, seed: int = 0) -> Stories:
    """At most `n` stories to train on and about a tenth as many to validate on, all clean.
    `source` is your own .txt, .json, .jsonl, .csv or .parquet file, or a folder of them. In a .txt
    file `<|endoftext|>` stands between stories, or else two or more blank lines; the other kinds
    have a column "text" or "story". `seed` shuffles the stories before some are held out. Raises
    FileNotFoundError or ValueError, naming what is wrong with the source or with `n`.

    Without a source: TinyStories from the hub, kept for next time in `slm.files.cache_folder()`;
    if the hub fails, those kept, even if fewer; else a practice corpus, said loudly."""
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n is how many stories to train on, a whole number above 0, not {n!r}")
    held = max(n // 10, 100)  # and so many at the most to validate on
    if source is None:
        try:
            stories, how = import_module("slm.hub").load_tinystories(n, held)
        except ConnectionError as error:
            stories, how = _practice(n, held, seed, str(error)), ""
    else:
        name = Path(source).expanduser().resolve().name
        texts = import_module("slm.readers").read_stories(source)
        stories, how = _split(texts, name, n, held, seed), ""
    counts = f"{len(stories.train):,} training + {len(stories.validation):,} validation stories"
    size = f"{sum(map(len, stories.train + stories.validation)):,} characters"
    print(f"{stories.source}{how}: {counts}, {size}. For others: load_stories('my_own.txt')")
    return stories


def _split(texts: Iterable[str], source: str, n: int, held: int, seed: int) -> Stories:
    """Clean and shuffle the stories; hold a tenth of them out, but no more than `held`."""
    stories, cleaning = clean_stories(texts)
    if len(stories) < 2:
        few = f"too few stories ({len(stories)} of {cleaning.stories_read} are left after cleaning)"
        mend = f"give two of {SHORTEST} characters or more; in a .txt file, put {END} between them"
        raise ValueError(f"{source} holds {few}: {mend}.")
    Random(seed).shuffle(stories)
    held = min(max(len(stories) // 10, 1), held)
    return Stories(stories[held:][:n], stories[:held], source, source == PRACTICE, cleaning)


def _practice(n: int, held: int, seed: int, why: str) -> Stories:
    print("=" * 80, "NOT TINYSTORIES: THESE ARE SIMPLE STORIES MADE UP FOR PRACTICE", sep="\n")
    print(f"Why: {why}. To try again: load_stories()\n{'=' * 80}")
    texts = import_module("slm.practice").practice_stories(min(n + held, 20_000), seed=seed)
    return _split(texts, PRACTICE, n, held, seed)
