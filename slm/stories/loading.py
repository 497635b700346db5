"""Loading stories: your own, the hub's TinyStories, or the practice corpus; always cleaned."""

from collections.abc import Iterable
from pathlib import Path
from random import Random

from slm.stories.cleaning import END, SHORTEST, Stories, clean_stories
from slm.stories.files import read_stories
from slm.stories.practice import practice_stories
from slm.stories.tinystories import load_tinystories

PRACTICE = "practice corpus"


def load_stories(source: str | Path | None = None, *, n: int = 15_000, seed: int = 0) -> Stories:
    """At most `n` stories to train on and about a tenth as many to validate on, all clean.
    `source` is your own .txt, .json, .jsonl, .csv or .parquet file, or a folder of them. In a .txt
    file `<|endoftext|>` stands between stories, or else two or more blank lines; the other kinds
    have a column "text" or "story". `seed` shuffles the stories before some are held out. Raises
    FileNotFoundError or ValueError, naming what is wrong with the source or with `n`.

    Without a source: TinyStories from the hub, kept for next time in the cache folder;
    if the hub fails, those kept, even if fewer; else a practice corpus, said loudly."""
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n is how many stories to train on, a whole number above 0, not {n!r}")
    held = max(n // 10, 100)  # and so many at the most to validate on
    if source is None:
        try:
            stories, how = load_tinystories(n, held)
        except ConnectionError as error:
            stories, how = _practice(n, held, seed, str(error)), ""
    else:
        name = Path(source).expanduser().resolve().name
        texts = read_stories(source)
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
    texts = practice_stories(min(n + held, 20_000), seed=seed)
    return _split(texts, PRACTICE, n, held, seed)
