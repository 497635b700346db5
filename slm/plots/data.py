"""Pictures of the stories before anything is trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from slm.plots.charts import bars, histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def story_lengths(
    stories: Sequence[str] | Mapping[str, Sequence[str]], *, title: str | None = None
) -> Figure:
    """Show how long the stories are, in words.

    `stories` is a list of texts, or several named lists (`{"training": …, "validation": …}`).
    The longest half per cent is out of view.
    """
    named = dict(stories) if isinstance(stories, Mapping) else {"stories": stories}
    lengths = {name: [len(text.split()) for text in texts] for name, texts in named.items()}
    title = title or "How long the stories are"
    return histogram(lengths, title=title, xlabel="length of a story, in words", bins=40)


def openings(
    stories: Sequence[str], *, words: int = 3, most: int = 8, title: str | None = None
) -> Figure:
    """Show the commonest first `words` of the stories, each with its share of all of them."""
    counts = Counter(" ".join(text.split()[:words]) for text in stories)
    total = max(1, len(stories))
    shares = {f"{start} …": 100 * count / total for start, count in counts.most_common(most)}
    title = title or "How the stories begin"
    return bars(shares, title=title, xlabel="share of the stories, %", number=".1f")
