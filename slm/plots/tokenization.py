"""Pictures of tokens: how text is cut, what a batch holds, which token follows which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from slm.plots.style import (
    BLUE,
    GREEN,
    HEADING,
    INK,
    MUTED,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    array,
    blank,
    heat_map,
    page,
    picture,
    shades,
    tint,
)
from slm.plots.text import ROW, TILE, flow, tile, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EDGE = 0.25  # the margin round a page of tiles, in inches
COLUMNS = 84  # characters in a row of tiles


@picture
def tokens(texts: Mapping[str, Sequence[str]]) -> Figure:
    """Show how each named list of tokens cuts its text: every token on a colour of its own.

    Each heading gives the number of tokens and how many characters one token holds on average.
    """
    rows = {name: list(flow(pieces, COLUMNS)) for name, pieces in texts.items()}
    depth = sum((placed[-1][0] + 1) * ROW + 0.62 for placed in rows.values() if placed)
    figure = blank(2 * EDGE + COLUMNS * TILE, depth + 0.08, layout=None)
    paper = page(figure)
    top = 0.32
    for (name, placed), pieces in zip(rows.items(), texts.values(), strict=True):
        paper.text(EDGE, top, name, **HEADING)
        mean = sum(map(len, pieces)) / max(1, len(pieces))
        count = f"{len(pieces):,} tokens · {mean:.2f} characters per token"
        paper.text(EDGE + COLUMNS * TILE, top, count, ha="right", color=MUTED)
        for index, (row, column, shown) in enumerate(placed):
            fill = tint((SKY, ORANGE, GREEN, PURPLE)[index % 4], 0.38)
            tile(paper, shown, fill, x=EDGE + column * TILE, y=top + 0.13 + row * ROW)
        top += (placed[-1][0] + 1) * ROW + 0.62 if placed else 0.62
    return figure


@picture
def batch(
    x_pieces: Sequence[Sequence[str]],
    y_pieces: Sequence[Sequence[str]],
    *,
    eot: str = "<|endoftext|>",
) -> Figure:
    """Show a batch: in each row the input tokens, and under each the token to be predicted.

    Both are (B, T) lists of tokens. A token keeps its shade, so the shift by one place is seen;
    the borders between stories, `eot`, stand out.
    """
    length = len(x_pieces[0])
    marks = [[visible(piece) for piece in row] for row in (*x_pieces, *y_pieces)]
    widths = [max(len(row[place]) for row in marks) + 1 for place in range(length)]
    pitch = min(TILE, 8.4 / sum(widths))
    starts = 1.15 + np.cumsum([0, *widths[:-1]]) * pitch
    high, block = ROW * pitch / TILE, 3.1 * ROW * pitch / TILE
    figure = blank(1.4 + sum(widths) * pitch, 0.6 + block * len(x_pieces), layout=None)
    paper = page(figure)
    paper.text(EDGE, 0.32, "A batch: at every place, predict the next token", **HEADING)
    for number, pair in enumerate(zip(x_pieces, y_pieces, strict=True)):
        for below, (name, pieces) in enumerate(zip(("input", "target"), pair, strict=True)):
            y = 0.55 + number * block + below * high
            label = f"{name} {number + 1}"
            paper.text(EDGE, y + 0.44 * high, label, va="center_baseline", color=MUTED, size=9)
            for place, piece in enumerate(pieces):
                fill = tint(BLUE, 0.28) if (place + below) % 2 else tint(BLUE, 0.12)
                fill = tint(ORANGE, 0.75) if piece == eot else fill
                x, width = starts[place], widths[place]
                tile(paper, visible(piece), fill, x=x, y=y, width=width, pitch=pitch)
    return figure


@picture
def bigrams(
    matrix: ArrayLike,
    row_labels: Sequence[str],
    col_labels: Sequence[str],
    *,
    title: str | None = None,
) -> Figure:
    """Show which token follows which: each row holds the probabilities of what comes next."""
    values = array(matrix)
    rows, columns = ([visible(label) for label in labels] for labels in (row_labels, col_labels))
    figure = blank(2 + 0.62 * len(columns), 1.35 + 0.36 * len(rows))
    axes = figure.subplots()
    heat_map(axes, values, rows, columns, number=".2f", limits=(0, max(values.max(), 1e-9)))
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(
        title=title or "How often each token follows another",
        xlabel="next token",
        ylabel="this token",
    )
    return figure


@picture
def confidence(
    pieces: Sequence[str], probabilities: ArrayLike, *, title: str | None = None
) -> Figure:
    """Show a text whose tokens are the darker, the more probable the model found them (0 to 1).

    A token without a probability (NaN, such as the first) stays grey.
    """
    chances = array(probabilities)
    placed = list(flow(pieces, COLUMNS))
    depth = (placed[-1][0] + 1) * ROW
    width = 2 * EDGE + COLUMNS * TILE
    figure = blank(width, depth + 0.85, layout=None)
    paper = page(figure)
    heading = title or "What the model expected: the darker, the more probable"
    paper.text(EDGE, 0.36, heading, **HEADING)
    for (row, column, shown), chance in zip(placed, chances, strict=True):
        known = bool(np.isfinite(chance))
        fill = shades()(0.04 + 0.9 * chance) if known else PALE
        ink = "white" if known and chance > 0.62 else INK
        tile(paper, shown, fill, x=EDGE + column * TILE, y=0.65 + row * ROW, ink=ink)

    bar = paper.inset_axes((width - EDGE - 1.75, 0.28, 1.5, 0.1), transform=paper.transData)
    bar.imshow(np.linspace(0.04, 0.94, 128)[None], cmap=shades(), vmin=0, vmax=1, aspect="auto")
    bar.set_axis_off()
    for x, label, align in ((-1.85, "probability  0", "right"), (-0.15, "1", "left")):
        paper.text(width - EDGE + x, 0.33, label, va="center", ha=align, color=MUTED, size=9)
    return figure
