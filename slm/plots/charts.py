"""Plain charts of any numbers: lines, bars, a histogram, a grid of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from slm.plots.style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PALETTE,
    VERMILION,
    WIDTH,
    array,
    blank,
    describe,
    heat_map,
    picture,
    tint,
)
from slm.plots.text import drawable, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")


@picture
def lines(
    curves: Mapping[str, Any],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = False,
    from_zero: bool = False,
) -> Figure:
    """Show named curves: each a list of heights, or a pair (places, heights).

    Curves differ in colour and in dashes, or with `markers` in the shape of their points. An axis
    may be logarithmic; with `from_zero` the heights begin at 0.
    """
    figure = blank(WIDTH, 3.6)
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        places, heights = _points(curve)
        style = {"color": PALETTE[number % 6], "label": drawable(name)}
        if markers:
            style["marker"] = MARKERS[number % 6]
            style["ms"] = 7
        axes.plot(places, heights, ls=DASHES[number % 6], **style)
    if len(curves) > 1:
        axes.legend()
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.margins(x=0.03)
    if log_x:
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
        if markers:
            _ticks_at_points(axes.xaxis, curves)
    if log_y:
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)
    if from_zero:
        axes.set_ylim(bottom=0)
    courses = "; ".join(_courses(curves))
    return describe(figure, f"Lines: {title}. {ylabel} against {xlabel}: {courses}.")


def _points(curve: Any) -> tuple[np.ndarray, np.ndarray]:
    """The places and heights of a curve; places are counted from 0 where none are given."""
    if isinstance(curve, tuple) and len(curve) == 2:
        return array(curve[0]), array(curve[1])
    heights = array(curve)
    return np.arange(len(heights)), heights


def _courses(curves: Mapping[str, Any]) -> list[str]:
    """For each curve that has points, where it goes from and to, and what it reaches between."""
    found = []
    for name, curve in curves.items():
        places, heights = _points(curve)
        if not len(heights):
            continue
        first = heights[0]
        last = heights[-1]
        course = f"{name} goes from {first:.3g} to {last:.3g}"
        if heights.min() < min(first, last):
            course += f", lowest {heights.min():.3g} at {places[heights.argmin()]:.3g}"
        if heights.max() > max(first, last):
            course += f", highest {heights.max():.3g} at {places[heights.argmax()]:.3g}"
        found.append(course)
    return found


def _ticks_at_points(axis: Any, curves: Mapping[str, Any]) -> None:
    """Put the ticks where the points are, if these are few enough to be told apart."""
    from matplotlib.ticker import FixedLocator

    places = np.unique(np.concatenate([_points(curve)[0] for curve in curves.values()]))
    if len(places) <= 8:
        axis.set_major_locator(FixedLocator(places))


def _plain_ticks(axis: Any) -> None:
    """Write 0.01 and 10,000 on a logarithmic axis, not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axis.get_data_interval()
    ratio = high / max(low, 1e-300)
    if ratio < 5:
        axis.set_major_locator(MaxNLocator(5))
    elif ratio < 200:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
    else:
        axis.set_major_locator(LogLocator(numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


@picture
def bars(
    values: Mapping[str, Any],
    *,
    title: str,
    xlabel: str = "",
    number: str = ".2f",
    highlight: str | None = None,
) -> Figure:
    """Show a number for each name as a bar, from the top down.

    Where there are several numbers for a name, such as one for each seed, the bar ends at their
    mean and each is a dot. The bar named `highlight` is darker.
    """
    groups = {name: np.atleast_1d(array(value)) for name, value in values.items()}
    means = np.array([group.mean() for group in groups.values()])
    names = [drawable(name) for name in groups]
    colours = [BLUE if name in (highlight, None) else tint(BLUE, 0.45) for name in groups]
    if highlight is None:
        colours = [tint(BLUE, 0.7)] * len(groups)
    figure = blank(WIDTH, 1.2 + 0.4 * len(groups))
    axes = figure.subplots()
    axes.barh(range(len(names)), means, 0.68, color=colours)
    for row, group in enumerate(groups.values()):
        if len(group) > 1:
            axes.plot(group, [row] * len(group), "o", color=ORANGE, mec=INK, mew=0.8, ms=6)
        end = max(group.max(), 0.0)
        label = format(means[row], number)
        axes.annotate(label, (end, row), (8, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_xlim(min(0.0, 1.1 * means.min()), 1.15 * max(means.max(), 1e-9))
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    alt = ", ".join(f"{name} {mean:{number}}" for name, mean in zip(groups, means, strict=True))
    return describe(figure, f"Bars: {title}. {xlabel or 'Values'}: {alt}.")


@picture
def histogram(
    groups: Mapping[str, ArrayLike], *, title: str, xlabel: str, bins: int = 30
) -> Figure:
    """Show how some numbers are spread: for each named group, the share that falls into each bin.

    The first group is filled, the others are outlines; a dashed line marks each group's median.
    """
    values = {name: array(group) for name, group in groups.items()}
    every = np.concatenate(list(values.values()))
    highest = np.percentile(every, 99.5, method="higher")
    borders = np.linspace(min(0.0, every.min()), max(highest, 1.0), bins + 1)
    figure = blank(WIDTH, 3.6)
    axes = figure.subplots()
    for place, (name, group) in enumerate(values.items()):
        colour = (BLUE, VERMILION, INK)[place % 3]
        shares = 100 * np.histogram(group, borders)[0] / max(1, len(group))
        label = f"{drawable(name)}, median {_median(group)}"
        fill = tint(colour, 0.35) if place == 0 else "none"
        axes.stairs(shares, borders, fill=place == 0, fc=fill, ec=colour, lw=1.8, label=label)
        axes.axvline(np.median(group), color=colour, lw=1.4, ls=(0, (4, 3)))
    axes.legend(loc="upper right")
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])  # room for the legend above the bars
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("share, %")
    axes.set_xlim(borders[0], borders[-1])
    axes.grid(axis="x", visible=False)
    alt = [f"{name}: {len(group):,}, median {_median(group)}" for name, group in values.items()]
    return describe(figure, f"Histogram: {title}. {xlabel}. {'; '.join(alt)}.")


def _median(numbers: np.ndarray) -> str:
    """The median in words: whole, or with the half that lies between two numbers."""
    return f"{np.median(numbers):,.1f}".removesuffix(".0")


@picture
def grid(
    matrix: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    xlabel: str = "",
    ylabel: str = "",
    number: str = ".2f",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Show a table of numbers as cells, the larger the darker, each with its number in it."""
    values = array(matrix)
    figure = blank(max(4.5, 1.8 + 0.75 * len(columns)), 1.5 + 0.42 * len(rows))
    axes = figure.subplots()
    heat_map(axes, values, rows, columns, number=number, limits=limits, size=11)
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    size = f"{len(rows)} rows, {len(columns)} columns"
    largest = f"{values[row, column]:{number}} at {rows[row]}, {columns[column]}"
    return describe(figure, f"Grid of numbers: {title}. {size}; the largest is {largest}.")


@picture
def word_grid(
    words: Sequence[Sequence[str]],
    shares: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    xlabel: str = "",
) -> Figure:
    """Show a table of tokens, each cell the darker, the larger its share (0 to 1)."""
    values = array(shares)
    figure = blank(1.4 + 0.95 * len(columns), 1.5 + 0.42 * len(rows))
    axes = figure.subplots()
    shown = [visible(column) for column in columns]
    heat_map(axes, values, rows, shown, limits=(0, 1), size=11)
    for (row, column), share in np.ndenumerate(values):
        ink = "white" if share > 0.6 else INK
        word = visible(words[row][column].replace("<|endoftext|>", "⟨end⟩"))
        axes.text(column, row, word, ha="center", va="center", size=10.5, color=ink)
    axes.set_title(title)
    axes.set_xlabel(xlabel, color=MUTED)
    last = ", ".join(word.strip() for word in words[-1])
    return describe(figure, f"Table of tokens: {title}. In the last row: {last}.")
