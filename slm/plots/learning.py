"""Pictures of what a loss is and how it is lowered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from slm.plots.charts import lines
from slm.plots.style import BLUE, INK, VERMILION, WIDTH, array, blank, describe, picture
from slm.plots.text import drawable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@picture
def surprise(probabilities: Mapping[str, float], *, title: str | None = None) -> Figure:
    """Show the surprise −ln p for every probability p, and where some named ones lie on it."""
    figure = blank(WIDTH, 3.6)
    axes = figure.subplots()
    curve = np.linspace(0.002, 1, 500)
    axes.plot(curve, -np.log(curve), color=BLUE)
    for name, chance in probabilities.items():
        height = -np.log(chance)
        axes.plot([chance], [height], "o", color=VERMILION, ms=7)
        label = f"{drawable(name)}: p = {chance:.3g}, surprise {height:.2f}"
        axes.annotate(label, (chance, height), (9, 7), textcoords="offset points", size=11)
    axes.set_title(title or "The less probable, the larger the surprise")
    axes.set_xlabel("probability p of the token that came")
    axes.set_ylabel("surprise −ln p, in nats")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0)
    alt = ", ".join(f"{name} {-np.log(chance):.2f}" for name, chance in probabilities.items())
    return describe(figure, f"The curve −ln p falls from over 6 to 0 at p = 1. On it: {alt}.")


@picture
def slope(
    weights: ArrayLike, losses: ArrayLike, at: float, slope: float, *, after: float | None = None
) -> Figure:
    """Show the loss for each value of one weight, its slope `at` one of them, and a step downhill.

    `after` is the weight after the step; beyond the curve it is not drawn.
    """
    places = array(weights)
    heights = array(losses)
    here = float(np.interp(at, places, heights))
    reach = 0.22 * (places.max() - places.min())
    figure = blank(WIDTH, 3.6)
    axes = figure.subplots()
    axes.plot(places, heights, color=BLUE, label="loss")
    near = np.array([at - reach, at + reach])
    axes.plot(near, here + slope * (near - at), "--", color=INK, lw=1.5, label="slope")
    axes.plot([at], [here], "o", color=INK, ms=8, label="the weight now")
    if after is not None and places.min() <= after <= places.max():
        there = float(np.interp(after, places, heights))
        axes.plot([after], [there], "D", color=VERMILION, ms=8, label="after a step downhill")
    axes.legend()
    axes.set_title("One weight, all others held still")
    axes.set_xlabel("the weight")
    axes.set_ylabel("loss, in nats")
    axes.set_ylim(heights.min() - 0.08 * np.ptp(heights), heights.max() + 0.05 * np.ptp(heights))
    alt = f"at {at:.3g} the loss is {here:.3f} and the slope {slope:.3g}"
    return describe(figure, f"The loss as a curve over one weight; {alt}.")


def schedule(rates: Mapping[str, ArrayLike], *, title: str | None = None) -> Figure:
    """Show the learning rate at each step: one line for each named list of rates."""
    return lines(
        {name: 1000 * array(values) for name, values in rates.items()},
        title=title or "The learning rate, from the first step to the last",
        xlabel="step",
        ylabel="learning rate, thousandths",
        from_zero=True,
    )


@picture
def rounding(weights: ArrayLike, rounded: Mapping[str, ArrayLike]) -> Figure:
    """Show weights, and what becomes of them under several roundings: each a row of dots."""
    exact = array(weights)
    figure = blank(WIDTH, 1.3 + 0.6 * (len(rounded) + 1))
    axes = figure.subplots()
    names = ["32 bits", *rounded]
    for row, name in enumerate(names):
        values = exact if row == 0 else array(rounded[name])
        axes.plot(values, [row] * len(values), "|", color=BLUE, ms=20, mew=1.6)
        levels = len(np.unique(values))
        axes.text(1.02, row, f"{levels} values", transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.set_title("The same weights, on fewer and fewer different values")
    axes.set_xlabel("weight")
    counts = ", ".join(f"{name} {len(np.unique(array(x)))}" for name, x in rounded.items())
    return describe(figure, f"{len(exact)} weights as ticks on a line; different values: {counts}.")
