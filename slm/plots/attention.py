"""Pictures of attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from slm.plots.style import (
    FAINT,
    HEADING,
    MUTED,
    WIDTH,
    array,
    blank,
    describe,
    heat_map,
    picture,
)
from slm.plots.text import drawable, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@picture
def attention_steps(steps: Sequence[tuple[str, ArrayLike]], words: Sequence[str]) -> Figure:
    """Show how attention is worked out: named (T, T) matrices side by side, numbers in the cells.

    Rows are the words that look, columns the words looked at. Each matrix has its own scale;
    −∞, which is what the mask leaves, is grey.
    """
    labels = [drawable(word.strip()) or visible(word) for word in words]
    side = 0.5 * len(labels)
    figure = blank(1.0 + (side + 0.25) * len(steps), side + 1.5)
    panels = figure.subplots(1, len(steps), squeeze=False)[0]
    for axes, (name, matrix) in zip(panels, steps, strict=True):
        heat_map(axes, matrix, labels, labels, number=".1f", size=9.5)
        axes.set_title(name, size=12)
        axes.tick_params(axis="x", rotation=90)
    panels[0].set_ylabel("looks")
    panels[len(steps) // 2].set_xlabel("is looked at")
    for axes in panels[1:]:
        axes.set_yticks([])
    names = ", ".join(name for name, _ in steps)
    kind = "Tables" if len(steps) > 1 else "A table"
    tables = f"{kind} of {len(labels)} by {len(labels)} numbers: {names}"
    last = steps[-1][0]
    return describe(figure, f"{tables}. In {last}, {_strongest(steps[-1][1], words)}.")


@picture
def attention_map(weights: ArrayLike, pieces: Sequence[str], *, title: str) -> Figure:
    """Show one (T, T) table of attention weights: a row looks, the columns are looked at."""
    labels = [visible(piece) for piece in pieces]
    figure = blank(1.6 + 0.34 * len(labels), 1.8 + 0.32 * len(labels))
    axes = figure.subplots()
    size = 11 if len(labels) <= 16 else 8.5
    heat_map(axes, weights, labels, labels, limits=(0, 1), size=size)
    axes.tick_params(axis="x", rotation=90)
    axes.set_title(title)
    axes.set_ylabel("looks")
    axes.set_xlabel("is looked at")
    return describe(figure, f"Attention map: {title}: {_strongest(weights, pieces)}.")


def _strongest(weights: ArrayLike, pieces: Sequence[str]) -> str:
    """In words, at which piece each one looks most, and how much."""
    table = array(weights)
    names = [piece.strip() or visible(piece) for piece in pieces]
    found = []
    for row, column in enumerate(table.argmax(axis=1)):
        found.append(f"{names[row]} looks most at {names[column]} ({table[row, column]:.2f})")
    return ", ".join(found)


@picture
def attention_maps(
    maps: ArrayLike,
    pieces: Sequence[str],
    *,
    layer: int | None = None,
    titles: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Show where each head looks: one small (T, T) map for each head of an (L, H, T, T) array.

    A row of maps for each layer, or with `layer` only that layer's heads; `titles` name the maps
    in order. A row of a map is the token that looks, its columns the tokens looked at; each row
    adds up to 1.
    """
    weights = array(maps)
    if layer is not None:
        weights = weights[layer : layer + 1]
    layers, heads, length, _ = weights.shape
    side = min(2.4, (WIDTH - 1.3) / heads)
    labels = [visible(piece) for piece in pieces]
    readable = side / length > 0.11
    deep = side * layers + 0.22 * layers + (1.1 if readable else 0.6)
    figure = blank(side * heads + 1.3, deep)
    panels = figure.subplots(layers, heads, squeeze=False)
    for (row, column), axes in np.ndenumerate(panels):
        names = labels if readable else [""] * length
        size = max(5.5, min(10, 62 * side / length))
        image = heat_map(axes, weights[row, column], names, names, limits=(0, 1), size=size)
        axes.set_aspect("equal")
        axes.spines[:].set(visible=True, color=FAINT)
        axes.tick_params(axis="x", rotation=90)
        number = row if layer is None else layer
        name = titles[row * heads + column] if titles else f"{number + 1}.{column + 1}"
        axes.set_title(name, weight="normal", size=10, pad=3, loc="center")
        if column:
            axes.set_yticks([])
        if row < layers - 1:
            axes.set_xticks([])
    _weight_scale(figure, image, panels)
    figure.suptitle(title or "Where each head looks (layer.head)", x=0.02, ha="left", **HEADING)
    alt = f"{layers} rows of {heads} maps over the {length} tokens of {' '.join(labels)}"
    return describe(figure, f"Attention maps: {alt}.")


def _weight_scale(figure: Figure, image: object, panels: np.ndarray) -> None:
    """Add the scale of colours, from 0 to 1."""
    bar = figure.colorbar(image, ax=panels, shrink=0.6, aspect=25, pad=0.02)
    bar.set_label("share of the attention", color=MUTED)
    bar.ax.tick_params(labelsize=9)
    bar.outline.set_visible(False)
