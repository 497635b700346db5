"""Pictures of the model's parts: attention, positions, parameters, embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from slm.plots.style import (
    ARROW,
    BLUE,
    FAINT,
    GREEN,
    HEADING,
    INK,
    MUTED,
    ORANGE,
    PALETTE,
    array,
    blank,
    heat_map,
    picture,
    shades,
)
from slm.plots.text import drawable, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@picture
def attention_steps(steps: Sequence[tuple[str, ArrayLike]], words: Sequence[str]) -> Figure:
    """Show how attention is worked out: named (T, T) matrices side by side, numbers in the cells.

    Rows are the words that look, columns the words looked at. Each matrix has its own scale;
    −∞, which is what the mask leaves, is grey.
    """
    figure = blank(0.9 + 3.1 * len(steps), 3.5)
    labels = [drawable(word.strip()) or visible(word) for word in words]
    panels = figure.subplots(1, len(steps), squeeze=False)[0]
    for axes, (name, matrix) in zip(panels, steps, strict=True):
        heat_map(axes, matrix, labels, labels, number=".2f")
        axes.set_title(name)
        axes.set_xlabel("looked at")
    panels[0].set_ylabel("looking")
    for axes in panels[1:]:
        axes.set_yticks([])
    return figure


@picture
def rotary(*, head_dim: int = 64, theta: float = 10_000.0) -> Figure:
    """Show rotary positions: turned pairs of numbers, and what a dot product sees.

    Left: three pairs of a head's `head_dim` numbers at positions 0 to 7; pair i turns by
    `theta ** (-2i / head_dim)` radians per position. Right: query · key for equal vectors of
    length 1, put at several places in the text: only the distance between them matters.
    """
    from matplotlib.patches import Circle

    speeds = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    figure = blank(11, 3.5)
    left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
    pairs = (0, head_dim // 16, head_dim // 4)
    for axes, pair, name in zip(
        left.subplots(1, 3), pairs, ("fast", "slower", "slow"), strict=True
    ):
        axes.add_patch(Circle((0, 0), 1, fill=False, ec=FAINT))
        for position in range(8):
            angle = position * speeds[pair]
            tip = np.cos(angle), np.sin(angle)
            axes.annotate(
                "",
                tip,
                (0, 0),
                arrowprops={**ARROW, "color": shades()(0.25 + 0.1 * position), "lw": 1.8},
            )
            if position == 0 or (position in (1, 7) and angle > 0.15):
                axes.text(1.17 * tip[0], 1.17 * tip[1], position, ha="center", va="center", size=9)
        axes.set(xlim=(-1.32, 1.32), ylim=(-1.32, 1.32), aspect="equal")
        axes.set_title(f"pair {pair}: {name}", loc="center", weight="normal", size=10)
        axes.set_xlabel(f"{np.degrees(speeds[pair]):.3g}° per position")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    left.suptitle("A query turns with its position (0 to 7)", x=0.02, ha="left", **HEADING)

    axes = right.subplots()
    distances = np.arange(0, 65)
    dots = np.cos(distances[:, None] * speeds).mean(axis=1)
    axes.plot(distances, dots, color="#B5BAC2", lw=1.5)
    for place, (query, colour, marker) in enumerate(
        ((64, BLUE, "o"), (128, ORANGE, "s"), (200, GREEN, "^"))
    ):
        keys = query - distances[place * 2 :: 6]
        turned_query, turned_keys = np.exp(1j * query * speeds), np.exp(1j * np.outer(keys, speeds))
        seen = (turned_query * turned_keys.conj()).real.mean(axis=1)
        label = f"query at position {query}"
        axes.plot(query - keys, seen, marker, color=colour, ms=5.5, label=label)
    axes.legend(loc="upper right")
    axes.set(xlabel="distance from query to key, in tokens", ylabel="query · key", xlim=(-1, 65))
    axes.set_title("Query · key: only distance matters")
    return figure


@picture
def parameters(groups: Mapping[str, int], *, title: str | None = None) -> Figure:
    """Show where the model's parameters are: a bar for each part, with its count and its share."""
    total = sum(groups.values())
    figure = blank(8.5, 0.95 + 0.42 * len(groups))
    axes = figure.subplots()
    names, counts = [drawable(name) for name in groups], list(groups.values())
    bars = axes.barh(names, counts, 0.66, color=BLUE)
    shares = [100 * count / max(1, total) for count in counts]
    labels = [
        f"{count:,}  ({share:.1f}%)" if share >= 0.1 else f"{count:,}  (under 0.1%)"
        for count, share in zip(counts, shares, strict=True)
    ]
    axes.bar_label(bars, labels, padding=5, color=MUTED)
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.set_title(title or f"Where the {total:,} parameters are")
    axes.grid(False)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


@picture
def attention_maps(
    maps: ArrayLike, pieces: Sequence[str], *, layer: int | None = None, title: str | None = None
) -> Figure:
    """Show where each head looks: one (T, T) map for each head of an (L, H, T, T) array.

    A row is the token that looks, its columns the tokens looked at; each row adds up to 1. With
    `layer` only that layer's heads are shown, larger; otherwise a row of maps for each layer.
    """
    weights = array(maps)
    layers, heads, length, _ = weights.shape
    chosen = range(layers) if layer is None else [layer]
    across = heads if layer is None else min(heads, 4)
    down = len(chosen) * -(-heads // across)
    side = max(1.15, min(2.6, 9.4 / across))
    size = max(4.5, min(8.5, 66 * side / length))
    figure = blank(across * side + 1.4, down * side + 1)
    panels = figure.subplots(down, across, squeeze=False)
    labels = [visible(piece) for piece in pieces]
    cells = [(one, head) for one in chosen for head in range(heads)]
    for place, (axes, (one, head)) in enumerate(zip(panels.flat, cells, strict=False)):
        image = heat_map(axes, weights[one, head], labels, labels, limits=(0, 1), size=size)
        axes.set_aspect("equal")
        axes.tick_params(axis="x", rotation=90)
        axes.spines[:].set(visible=True, color=FAINT)
        if place % across:
            axes.set_yticks([])
        elif layer is None:
            axes.set_ylabel(f"layer {one + 1}")
        if place + across < len(cells):
            axes.set_xticks([])
        if layer is not None or place < across:
            axes.set_title(f"head {head + 1}", weight="normal", size=9.5, pad=4, loc="center")
    for axes in panels.flat[len(cells) :]:
        axes.set_axis_off()
    bar = figure.colorbar(image, ax=panels, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("attention weight", color=MUTED)
    bar.ax.tick_params(labelsize=8.5)
    bar.outline.set_visible(False)
    where = "each head" if layer is None else f"each head of layer {layer + 1}"
    figure.suptitle(title or f"Where {where} looks", x=0.02, ha="left", **HEADING)
    return figure


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
    figure = blank(8.5, 5.6)
    axes = figure.subplots()
    for name, colour, marker in zip(dict.fromkeys(groups), PALETTE, "os^DvP", strict=False):
        inside = points[[group == name for group in groups]]
        looks = {"color": colour, "ms": 6.5, "mec": "white", "mew": 0.6}
        axes.plot(*inside.T, marker, label=drawable(name), **looks)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes.margins(0.08)
    axes.set(
        title=title or "Words by their embeddings, flattened to two dimensions",
        xlabel=f"first direction ({spread[0]:.0f}% of the spread)",
        ylabel=f"second direction ({spread[1]:.0f}% of the spread)",
    )
    figure.draw_without_rendering()
    _label(axes, points, [drawable(word.strip()) for word in words])
    return figure


def _label(axes: Axes, points: np.ndarray, words: Sequence[str]) -> None:
    """Put each word beside its point, at the first place round it where nothing else stands."""
    from matplotlib.transforms import Bbox

    at = axes.transData.transform(points)
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in at]
    sides = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    for point, pixel, word in zip(points, at, words, strict=True):
        label = axes.text(*point, word, size=9, in_layout=False)
        for reach, (right, up) in product((9, 20, 34, 50), sides):
            place = axes.transData.inverted().transform(pixel + reach * np.array([right, up]))
            label.set(
                position=place,
                ha={1: "left", 0: "center", -1: "right"}[right],
                va={1: "bottom", 0: "center", -1: "top"}[up],
            )
            box = label.get_window_extent()
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            if inside and not any(box.overlaps(other) for other in taken):
                break
        if reach > 9:
            axes.plot(*np.transpose([point, place]), color=FAINT, lw=0.8, zorder=1)
        taken.append(box)
