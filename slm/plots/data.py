"""Pictures of the stories before anything is trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from slm.plots.style import BLUE, INK, MUTED, ORANGE, blank, picture, tint
from slm.plots.text import drawable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@picture
def story_lengths(
    stories: Sequence[str] | Mapping[str, Sequence[str]],
    *,
    opening: int = 3,
    title: str | None = None,
) -> Figure:
    """Show how long the stories are, in words, and how they begin.

    `stories` is a list of texts, or several named lists (`{"training": …, "validation": …}`),
    whose histograms lie over one another as shares of each list; the median is that of the first.
    The longest half per cent is out of view. On the right are the commonest first `opening` words
    of the first list.
    """
    named = dict(stories) if isinstance(stories, Mapping) else {"": stories}
    lengths = {
        name: np.array([len(text.split()) for text in texts]) for name, texts in named.items()
    }
    first = next(iter(named))
    longest = max(20, int(np.percentile(np.concatenate(list(lengths.values())), 99.5)))
    bins = np.linspace(0, longest, 41)

    figure = blank(10, 3.9)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for (name, words), colour in zip(lengths.items(), (BLUE, ORANGE, INK), strict=False):
        share = 100 * np.histogram(words, bins)[0] / len(words)
        label = f"{name or 'stories'}: {len(words):,}"
        if name == first:
            looks = {"fc": tint(colour, 0.55), "ec": "white", "lw": 0.5}
            left.bar(bins[:-1], share, np.diff(bins), align="edge", label=label, **looks)
        else:
            left.stairs(share, bins, color=colour, lw=1.6, label=label)
    median = float(np.median(lengths[first]))
    left.axvline(median, color=INK, lw=1.2, ls=(0, (4, 3)))
    left.annotate(
        f"median {median:,.0f} words",
        (median, 1),
        xycoords=("data", "axes fraction"),
        xytext=(6, -4),
        textcoords="offset points",
        va="top",
    )
    left.legend(loc="upper right", bbox_to_anchor=(1, 0.9))
    left.set(
        title=title or "How long the stories are",
        xlabel="length, in words",
        ylabel="share of the stories, %",
        xlim=(0, longest),
    )
    left.margins(y=0.18)
    left.grid(axis="x", visible=False)

    openings = Counter(" ".join(text.split()[:opening]) for text in named[first])
    common = openings.most_common(10)[::-1]
    shares = [100 * count / len(named[first]) for _, count in common]
    bars = right.barh([f"{drawable(words)} …" for words, _ in common], shares, 0.7, color=BLUE)
    right.bar_label(bars, [f"{share:.1f}%" for share in shares], padding=4, color=MUTED, size=9)
    right.tick_params(axis="y", length=0, labelcolor=INK)
    right.spines[["left", "bottom"]].set_visible(False)
    right.set(title="How they begin", xlabel="share of the stories, %")
    right.margins(x=0.15, y=0.02)
    right.grid(axis="y", visible=False)
    return figure
