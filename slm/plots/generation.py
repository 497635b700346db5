"""Pictures of the model at work: what may come next, and how loss changes along a story."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from slm.plots.charts import bars
from slm.plots.fonts import MONO, with_fallbacks
from slm.plots.style import (
    BLUE,
    HEADING,
    INK,
    MUTED,
    WIDTH,
    array,
    blank,
    describe,
    picture,
    tint,
)
from slm.plots.text import drawable, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OTHERS = "all others"


@picture
def next_token(
    pieces: Sequence[str],
    probabilities_by_name: Mapping[str, ArrayLike],
    *,
    most: int = 10,
    title: str | None = None,
) -> Figure:
    """Show the likeliest next tokens under several settings, side by side and in one order.

    Each array holds a probability for each of `pieces`; the `most` tokens likeliest on average are
    shown, from the top down, and last what is left for all other tokens.
    """
    chances = {name: array(values) for name, values in probabilities_by_name.items()}
    mean = np.mean(list(chances.values()), axis=0)
    order = np.argsort(-mean, kind="stable")[:most]
    names = [visible(pieces[place]) for place in order]
    shares = {name: 100 * values[order] for name, values in chances.items()}
    rests = {name: max(0.0, 100 - share.sum()) for name, share in shares.items()}
    with_rest = bool(max(rests.values()) > 0.05)
    if with_rest:
        names.append(OTHERS)
    figure = blank(max(4.0, min(WIDTH, 1.4 + 2.6 * len(chances))), 1.5 + 0.3 * len(names))
    panels = figure.subplots(1, len(chances), sharey=True, squeeze=False)[0]
    highest = max(max(share.max(), rests[name]) for name, share in shares.items())
    for axes, (name, share) in zip(panels, shares.items(), strict=True):
        heights = [*share, rests[name]] if with_rest else share
        colours = [BLUE] * len(order) + [tint(MUTED, 0.6)] * with_rest
        drawn = axes.barh(range(len(heights)), heights, 0.72, color=colours)
        marks = [_percent(height) for height in heights]
        axes.bar_label(drawn, marks, padding=3, size=10, color=MUTED)
        axes.set_title(drawable(name), loc="center", weight="normal", size=11.5)
        axes.set(xlabel="probability, %", xlim=(0, max(1, 1.45 * highest)))
        axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 100])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
    panels[0].set_yticks(range(len(names)), names, family=with_fallbacks(MONO))
    panels[0].invert_yaxis()
    figure.suptitle(title or "What may come next", x=0.015, ha="left", **HEADING)
    likeliest = []
    for name, share in shares.items():
        piece = f"“{names[share.argmax()]}” {share.max():.0f}%"
        likeliest.append(f"{name}: {piece}" if name else piece)
    alt = "; ".join(likeliest)
    return describe(figure, f"Bars of next-token probabilities. Likeliest: {alt}.")


def _percent(share: float) -> str:
    """A share as it stands beside a bar."""
    if share == 0:
        return "0"
    return "<0.1" if share < 0.1 else f"{share:.1f}"


def scores(
    bits_per_byte: Mapping[str, float], *, title: str | None = None, highlight: str | None = None
) -> Figure:
    """Show the bits per byte of several models, by name, as bars: the shorter, the better.

    `highlight` is the one drawn darker; left out, the best.
    """
    best = min(bits_per_byte, key=bits_per_byte.get)
    return bars(
        bits_per_byte,
        title=title or "Bits per byte on stories not seen: less is better",
        xlabel="bits per byte",
        highlight=highlight or best,
    )


@picture
def loss_by_position(
    nats: ArrayLike, counts: ArrayLike | None = None, *, title: str | None = None
) -> Figure:
    """Show the mean loss, in nats per token, at each position in the story, counted from 1.

    `nats` has shape (T,). `counts`, of the same shape, are the stories that go so far; they stand
    below on an axis of their own.
    """
    means = array(nats)
    places = np.arange(1, len(means) + 1)
    rows = _loss_and_count_axes(counts is not None)
    rows[0].plot(places, means, color=tint(BLUE, 0.4), lw=0.9, label="at each position")
    rows[0].plot(places, _smooth(means), color=BLUE, label="smoothed")
    rows[0].legend()
    rows[0].set_title(title or "Loss at each position in the story")
    rows[0].set_ylabel("loss, nats per token")
    rows[0].set_xlim(1, max(2, len(means)))
    rows[0].set_ylim(0)
    if counts is not None:
        rows[1].fill_between(places, array(counts), color=tint(BLUE, 0.3), lw=0)
        rows[1].set_ylabel("stories\nthis long")
        rows[1].set_ylim(0)
        rows[1].locator_params(axis="y", nbins=3)
        rows[1].yaxis.set_major_formatter("{x:,.0f}")
    rows[-1].set_xlabel("position in the story, in tokens")
    known = means[np.isfinite(means)]
    start = known[:5].mean() if len(known) else np.nan
    middle = known[len(known) // 2 :].mean() if len(known) else np.nan
    alt = f"{start:.2f} over the first five tokens, {middle:.2f} over the second half"
    return describe(rows[0].figure, f"Loss by position in the story, in nats per token: {alt}.")


def _loss_and_count_axes(with_counts: bool) -> list:
    """Axes for the loss, and below them, where wanted, flat ones for the counts."""
    if not with_counts:
        return [blank(WIDTH, 3.6).subplots()]
    figure = blank(WIDTH, 4.4)
    return list(figure.subplots(2, 1, sharex=True, height_ratios=(4, 1)))


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running mean over a fortieth of the values; NaN is left out."""
    known = np.isfinite(values)
    window = np.ones(max(1, len(values) // 40))
    weight = np.convolve(known.astype(float), window, "same")
    total = np.convolve(np.where(known, values, 0.0), window, "same")
    return np.divide(total, weight, out=np.full(len(values), np.nan), where=weight > 0)
