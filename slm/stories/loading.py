"""Loading stories: your own, TinyStories from the hub, or the practice corpus; always cleaned."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

from slm.stories.cleaning import END, SHORTEST, Stories, clean_stories
from slm.stories.files import as_texts
from slm.stories.practice import practice_stories
from slm.stories.tinystories import load_tinystories
from slm.utils.printing import say
from slm.utils.settings_checks import check_number

PRACTICE = "practice corpus"
MAX_PRACTICE_STORIES = 20_000  # more of them would hardly say anything new
STORIES_PER_HELD_OUT = 10  # one of so many is held out to validate on
FEW = 20  # stories: with fewer, scores on those held out say little


def load_stories(
    source: str | Path | Sequence[str] | None = None, *, n: int = 15_000, seed: int = 0
) -> Stories:
    """At most `n` stories to train on and about a tenth as many to validate on, all clean.

    `source` is your own .txt, .json, .jsonl, .csv or .parquet file, a folder of them, or a list of
    texts. In a .txt file `<|endoftext|>` separates stories, or else two or more blank lines; the
    other kinds have a column "text" or "story". `seed` shuffles the stories before some are held
    out. Raises FileNotFoundError or ValueError, naming what is wrong with the source or with `n`.

    Without a source: TinyStories from the hub, kept for next time in the cache folder; if the hub
    cannot be reached, those that are kept, even if fewer; else a practice corpus, said loudly.
    """
    n = check_number("n, the number of stories to train on,", n, whole=True, low=1)
    max_held_out = max(n // STORIES_PER_HELD_OUT, 100)
    origin = ""
    if source is not None:
        texts = as_texts(source)
        stories = _split(texts, _source_name(source), n, max_held_out, seed)
    else:
        try:
            stories, origin = load_tinystories(n, max_held_out)
        except ConnectionError as error:
            stories = _load_practice(n, max_held_out, seed, reason=str(error))
    _print_summary(stories, origin)
    return stories


def _split(texts: Iterable[str], source: str, n: int, max_held_out: int, seed: int) -> Stories:
    """Clean and shuffle the stories; hold a tenth of them out, at most `max_held_out`."""
    stories, cleaning = clean_stories(texts)
    if len(stories) < 2:
        raise ValueError(
            f"{source} holds too few stories ({len(stories)} of {cleaning.stories_read} are left "
            f"after cleaning): give two of {SHORTEST} letters or more; "
            f"in a .txt file, put {END} between them."
        )
    Random(seed).shuffle(stories)
    held_out = min(_held_out_count(len(stories)), max_held_out)
    if len(stories) < FEW:
        say(
            f"{source} holds {len(stories)} stories, and {held_out} of them are held out to "
            f"measure by: the scores will be rough. {FEW} stories or more are better."
        )
    train = stories[held_out:][:n]
    too_many = len(stories) - held_out - len(train)
    if too_many and source != PRACTICE:
        say(
            f"{source} holds {too_many:,} stories more, which are left out, as n is {n:,}: "
            f"load_stories(..., n={n + too_many}) trains on them too."
        )
    validation = stories[:held_out]
    return Stories(train, validation, source, source == PRACTICE, cleaning)


def _held_out_count(stories: int) -> int:
    """A tenth of the stories; of a few, two, as long as two are left to train on."""
    if stories < 4:
        return 1
    return max(stories // STORIES_PER_HELD_OUT, 2)


def _source_name(source: object) -> str:
    """A short name of the user's own stories, fit for the title of a plot."""
    if isinstance(source, str | Path):
        return Path(source).expanduser().resolve().name
    if isinstance(source, Stories):
        return source.source
    return "your stories"


def _load_practice(n: int, max_held_out: int, seed: int, reason: str) -> Stories:
    """The practice corpus, with a notice that cannot be overlooked."""
    line = "=" * 80
    say(line)
    say("NOT TINYSTORIES: THESE ARE SIMPLE STORIES MADE UP FOR PRACTICE")
    say(f"Why: {reason}. To try again: load_stories()")
    say(line)
    texts = practice_stories(min(n + max_held_out, MAX_PRACTICE_STORIES), seed=seed)
    return _split(texts, PRACTICE, n, max_held_out, seed)


def _print_summary(stories: Stories, origin: str) -> None:
    """One line: what was loaded, from where, and how much of it."""
    name = f"{stories.source} ({origin})" if origin else stories.source
    counts = f"{len(stories.train):,} training + {len(stories.validation):,} validation stories"
    characters = sum(len(story) for story in stories.train + stories.validation)
    say(f"{name}: {counts}, {characters:,} characters. For others: load_stories('my_own.txt')")
