"""Pictures of the model's numbers: its parameters, its vectors, its words on a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from slm.plots.style import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    PALETTE,
    WIDTH,
    array,
    blank,
    describe,
    picture,
)
from slm.plots.text import drawable, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@picture
def parameters(groups: Mapping[str, int], *, title: str | None = None) -> Figure:
    """Show where the model's parameters are: a bar for each part, with its count and its share."""
    total = sum(groups.values())
    figure = blank(WIDTH, 1.0 + 0.44 * len(groups))
    axes = figure.subplots()
    names = [drawable(name) for name in groups]
    counts = list(groups.values())
    drawn = axes.barh(names, counts, 0.66, color=BLUE)
    labels = [_count_and_share(count, total) for count in counts]
    axes.bar_label(drawn, labels, padding=5, color=MUTED)
    axes.invert_yaxis()
    axes.margins(x=0.38)
    axes.set_title(title or f"Where the {total:,} parameters are")
    axes.grid(False)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines[["left", "bottom"]].set_visible(False)
    alt = ", ".join(f"{name} {label}" for name, label in zip(names, labels, strict=True))
    return describe(figure, f"Bars: where the {total:,} parameters are: {alt}.")


def _count_and_share(count: int, total: int) -> str:
    share = 100 * count / max(1, total)
    return f"{count:,}  ({share:.1f}%)" if share >= 0.1 else f"{count:,}  (under 0.1%)"


@picture
def vectors(rows: ArrayLike, pieces: Sequence[str], *, title: str | None = None) -> Figure:
    """Show tokens' vectors, (T, C): a row of cells each, purple above 0 and orange below."""
    values = array(rows)
    limit = float(np.percentile(np.abs(values), 98)) or 1.0
    figure = blank(WIDTH, 1.5 + 0.34 * len(values))
    axes = figure.subplots()
    image = axes.imshow(values, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_yticks(range(len(pieces)), [visible(piece) for piece in pieces], color=INK)
    axes.set_xlabel("number in the vector")
    axes.set_title(title or "Each token is a row of numbers")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, pad=0.02).outline.set_visible(False)
    alt = f"{len(values)} rows of {values.shape[1]} coloured cells"
    return describe(figure, f"Vectors: {alt}, for the tokens {', '.join(pieces)}.")


@picture
def embedding_map(
    vectors: ArrayLike, words: Sequence[str], groups: Sequence[str], *, title: str | None = None
) -> Figure:
    """Show words' embedding vectors, (N, C), on the plane in which they differ most (PCA).

    `groups[n]` names the group of `words[n]`; a group is a colour and a shape.
    """
    points = array(vectors)
    left, sizes, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    spread = 100 * sizes**2 / (sizes**2).sum()
    points = (left * sizes)[:, :2]
    figure = blank(WIDTH, 6.0)
    axes = figure.subplots()
    names = list(dict.fromkeys(groups))
    for name, colour, marker in zip(names, PALETTE, "os^DvP", strict=False):
        inside = points[[group == name for group in groups]]
        style = {"color": colour, "ms": 7.5, "mec": "white", "mew": 0.6}
        axes.plot(*inside.T, marker, label=drawable(name), **style)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.26), ncols=4)
    axes.margins(0.08)
    share = spread[0] + spread[1]
    axes.set_title(title or f"Words by their vectors ({share:.0f}% of the spread is seen)")
    axes.set_xlabel(f"first direction ({spread[0]:.0f}%)")
    axes.set_ylabel(f"second direction ({spread[1]:.0f}%)")
    figure.draw_without_rendering()
    _label(axes, points, [drawable(word.strip()) for word in words])
    alt = "; ".join(f"{name}: {_members(name, words, groups)}" for name in names)
    return describe(figure, f"A map of words by their vectors. {alt}.")


def _members(name: str, words: Sequence[str], groups: Sequence[str]) -> str:
    members = [word.strip() for word, group in zip(words, groups, strict=True) if group == name]
    return ", ".join(members)


def _label(axes: Axes, points: np.ndarray, words: Sequence[str]) -> None:
    """Put each word beside its point, at the first place round it where nothing else stands."""
    from matplotlib.transforms import Bbox

    at = axes.transData.transform(points)
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in at]
    sides = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    for point, pixel, word in zip(points, at, words, strict=True):
        label = axes.text(*point, word, size=10.5, in_layout=False)
        for reach, (right, up) in product((9, 20, 34, 50), sides):
            place = axes.transData.inverted().transform(pixel + reach * np.array([right, up]))
            label.set_position(place)
            label.set_ha({1: "left", 0: "center", -1: "right"}[right])
            label.set_va({1: "bottom", 0: "center", -1: "top"}[up])
            box = label.get_window_extent()
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            if inside and not any(box.overlaps(other) for other in taken):
                break
        if reach > 9:
            axes.plot(*np.transpose([point, place]), color=FAINT, lw=0.8, zorder=1)
        taken.append(box)
