"""Pictures of the model at work: what may come next, and how loss changes along a story."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from slm.plots.style import BLUE, HEADING, INK, MONO, MUTED, array, blank, picture, tint
from slm.plots.text import drawable, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@picture
def next_token(
    pieces: Sequence[str],
    probabilities_by_name: Mapping[str, ArrayLike],
    *,
    most: int = 12,
    title: str | None = None,
) -> Figure:
    """Show the likeliest next tokens under several settings, side by side and in one order.

    Each array holds a probability for each of `pieces`; the `most` tokens likeliest on average are
    shown, from the top down.
    """
    chances = {name: array(values) for name, values in probabilities_by_name.items()}
    order = np.argsort(-np.mean(list(chances.values()), axis=0), kind="stable")[:most]
    names = [visible(pieces[place]) for place in order]
    figure = blank(1.3 + 2.9 * len(chances), 1.25 + 0.27 * len(order))
    panels = figure.subplots(1, len(chances), sharey=True, squeeze=False)[0]
    highest = 100 * max(values[order].max() for values in chances.values())
    for axes, (name, values) in zip(panels, chances.items(), strict=True):
        shares = 100 * values[order]
        bars = axes.barh(range(len(order)), shares, 0.72, color=BLUE)
        marks = ["0" if s == 0 else "<0.1%" if s < 0.1 else f"{s:.1f}%" for s in shares]
        axes.bar_label(bars, marks, padding=4, size=8.5, color=MUTED)
        axes.set_title(drawable(name), loc="center", weight="normal", size=10.5)
        axes.set(xlabel="probability, %", xlim=(0, max(1, 1.28 * highest)))
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
    panels[0].set_yticks(range(len(order)), names, family=MONO)
    panels[0].invert_yaxis()
    figure.suptitle(title or "What may come next", x=0.015, ha="left", **HEADING)
    return figure


@picture
def scores(bits_per_byte: Mapping[str, float], *, title: str | None = None) -> Figure:
    """Show the bits per byte of several models, by name, as bars: the shorter, the better."""
    names, values = [drawable(name) for name in bits_per_byte], array([*bits_per_byte.values()])
    figure = blank(8, 1.1 + 0.42 * len(names))
    axes = figure.subplots()
    colours = [BLUE if value == values.min() else tint(BLUE, 0.45) for value in values]
    bars = axes.barh(range(len(names)), values, 0.68, color=colours)
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=5, color=INK)
    axes.set(xlabel="bits per byte", xlim=(0, 1.12 * values.max()))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_title(title or "How well each predicts stories that it has not seen")
    return figure


@picture
def loss_by_position(
    nats: ArrayLike, counts: ArrayLike | None = None, *, title: str | None = None
) -> Figure:
    """Show the mean loss, in nats per token, at each position in the story, counted from 1.

    `nats` has shape (T,). `counts`, of the same shape, are the tokens each mean was taken over;
    they stand below on an axis of their own.
    """
    means = array(nats)
    places = np.arange(1, len(means) + 1)
    figure = blank(8.5, 3.6 if counts is None else 4.4)
    rows = figure.subplots(
        1 if counts is None else 2,
        1,
        sharex=True,
        squeeze=False,
        height_ratios=None if counts is None else (4, 1),
    )[:, 0]
    known = np.isfinite(means)
    window = np.ones(max(1, len(means) // 40))
    weight = np.convolve(known.astype(float), window, "same")
    total = np.convolve(np.where(known, means, 0.0), window, "same")
    smooth = np.divide(total, weight, out=np.full(len(means), np.nan), where=weight > 0)
    rows[0].plot(places, means, color=tint(BLUE, 0.4), lw=0.9, label="at each position")
    rows[0].plot(places, smooth, color=BLUE, label="smoothed")
    rows[0].legend()
    rows[0].set(
        title=title or "Loss at each position in the story",
        ylabel="mean loss, nats per token",
        xlim=(1, max(2, len(means))),
    )
    rows[0].set_ylim(0)
    if counts is not None:
        rows[1].fill_between(places, array(counts), color=tint(BLUE, 0.3), lw=0)
        rows[1].set(ylabel="tokens\nmeasured")
        rows[1].set_ylim(0)
        rows[1].locator_params(axis="y", nbins=3)
        rows[1].yaxis.set_major_formatter("{x:,.0f}")
    rows[-1].set_xlabel("position in the story, in tokens")
    return figure
