"""Pictures of tokens: how text is cut, what a batch holds, which token follows which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from slm.plots.charts import grid
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
    WIDTH,
    array,
    blank,
    describe,
    page,
    picture,
    shades,
    tint,
)
from slm.plots.text import ROW, TILE, columns, flow, tile, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EDGE = 0.2  # the margin round a page of tiles, in inches
COLUMNS = int((WIDTH - 2 * EDGE) / TILE)  # characters in a row of tiles
FILLS = (SKY, ORANGE, GREEN, PURPLE)  # of neighbouring tokens; the colours mean nothing else


@picture
def tokens(texts: Mapping[str, Sequence[str]]) -> Figure:
    """Show how each named list of tokens cuts its text: neighbours differ in colour.

    Each heading gives the number of tokens and how many characters one token holds on average.
    """
    placed = {name: list(flow(pieces, COLUMNS)) for name, pieces in texts.items()}
    depths = {name: _depth(tiles) for name, tiles in placed.items()}
    paper = page(blank(WIDTH, sum(depths.values()) + 0.4, layout=None))
    top = 0.32
    alt = []
    for name, pieces in texts.items():
        mean = sum(map(len, pieces)) / max(1, len(pieces))
        count = f"{len(pieces):,} tokens · {mean:.2f} characters each"
        paper.text(EDGE, top, name, **HEADING)
        paper.text(WIDTH - EDGE, top, count, ha="right", color=MUTED, size=11)
        for index, (row, column, shown) in enumerate(placed[name]):
            fill = tint(FILLS[index % 4], 0.38)
            tile(paper, shown, fill, x=EDGE + column * TILE, y=top + 0.15 + row * ROW)
        alt.append(f"{name}: {count}")
        top += depths[name]
    paper.text(EDGE, top - 0.1, "Colours only tell neighbours apart.", color=MUTED, size=10)
    return describe(paper.figure, f"A text cut into tokens. {'; '.join(alt)}.")


def _depth(tiles: Sequence[tuple[int, int, str]]) -> float:
    """How much room a heading and its tiles take, in inches."""
    rows = tiles[-1][0] + 1 if tiles else 0
    return rows * ROW + 0.68


@picture
def merges(steps: Sequence[tuple[str, Sequence[str]]], *, title: str | None = None) -> Figure:
    """Show a text after each merge: (what was joined, the pieces), one row for each step."""
    left = 1.6
    longest = max(sum(map(columns, pieces)) for _, pieces in steps)
    pitch = min(1.5 * TILE, (WIDTH - left - EDGE) / max(1, longest))
    high = ROW * pitch / TILE + 0.06
    paper = page(blank(WIDTH, 0.65 + high * len(steps), layout=None))
    paper.text(EDGE, 0.32, title or "Neighbours join, the commonest pair first", **HEADING)
    for row, (label, pieces) in enumerate(steps):
        y = 0.55 + high * row
        paper.text(EDGE, y + 0.4 * high, label, va="center_baseline", size=11)
        x = left
        for index, piece in enumerate(pieces):
            shown = visible(piece)
            tile(paper, shown, tint(FILLS[index % 4], 0.38), x=x, y=y, pitch=pitch)
            x += columns(shown) * pitch
    counts = ", ".join(str(len(pieces)) for _, pieces in steps)
    return describe(paper.figure, f"A text after each merge, in fewer and fewer pieces: {counts}.")


@picture
def batch(
    x_pieces: Sequence[Sequence[str]],
    y_pieces: Sequence[Sequence[str]],
    *,
    eot: str = "<|endoftext|>",
    mark: str = "⟨end⟩",
) -> Figure:
    """Show a batch: in each row the input tokens, and under each the token to be predicted.

    Both are (B, T) lists of tokens. A token keeps its shade, so the shift by one place is seen;
    the borders between stories, `eot`, are written as `mark` and stand out.
    """
    rows = [[mark if piece == eot else visible(piece) for piece in row] for row in x_pieces]
    targets = [[mark if piece == eot else visible(piece) for piece in row] for row in y_pieces]
    length = len(rows[0])
    widths = [max(columns(row[place]) for row in (*rows, *targets)) + 1 for place in range(length)]
    left = 0.95
    pitch = min(TILE, (WIDTH - left - EDGE) / sum(widths))
    starts = left + np.cumsum([0, *widths[:-1]]) * pitch
    high = ROW * pitch / TILE
    paper = page(blank(WIDTH, 0.6 + 3.1 * high * len(rows), layout=None))
    paper.text(EDGE, 0.32, "A batch: at every place, predict the next token", **HEADING)
    for number, pair in enumerate(zip(rows, targets, strict=True)):
        for below, (name, pieces) in enumerate(zip(("input", "target"), pair, strict=True)):
            y = 0.55 + (3.1 * number + below) * high
            paper.text(EDGE, y + 0.44 * high, name, va="center_baseline", color=MUTED, size=10)
            for place, piece in enumerate(pieces):
                fill = tint(BLUE, 0.28) if (place + below) % 2 else tint(BLUE, 0.12)
                fill = tint(ORANGE, 0.75) if piece == mark else fill
                spot = {"x": starts[place], "y": y, "width": widths[place], "pitch": pitch}
                tile(paper, piece, fill, **spot)
    alt = f"{len(rows)} rows of {length} tokens; under each the target, the token after it"
    return describe(paper.figure, f"A batch: {alt}.")


def bigrams(
    matrix: ArrayLike,
    row_labels: Sequence[str],
    col_labels: Sequence[str],
    *,
    title: str | None = None,
) -> Figure:
    """Show which token follows which: each row holds the probabilities of what comes next."""
    return grid(
        matrix,
        [visible(label) for label in row_labels],
        [visible(label) for label in col_labels],
        title=title or "How often each token follows another",
        xlabel="next token",
        ylabel="this token",
        limits=(0, max(array(matrix).max(), 1e-9)),
    )


@picture
def confidence(
    pieces: Sequence[str], probabilities: ArrayLike, *, title: str | None = None
) -> Figure:
    """Show a text whose tokens are the darker, the more probable the model found them (0 to 1).

    A token without a probability (NaN, such as the first) is grey; all have an edge, so that the
    surprising ones, which are white, are seen too.
    """
    chances = array(probabilities)
    placed = list(flow(pieces, COLUMNS))
    depth = (placed[-1][0] + 1) * ROW
    paper = page(blank(WIDTH, depth + 1.05, layout=None))
    paper.text(EDGE, 0.34, title or "How probable the model found each token", **HEADING)
    for (row, column, shown), chance in zip(placed, chances, strict=True):
        known = bool(np.isfinite(chance))
        fill = shades()(0.02 + 0.9 * chance) if known else PALE
        ink = "white" if known and chance > 0.62 else INK
        spot = {"x": EDGE + column * TILE, "y": 0.85 + row * ROW, "ink": ink}
        tile(paper, shown, fill, edge="#9AA3AF", **spot)
    bar = paper.inset_axes((WIDTH - EDGE - 1.8, 0.52, 1.5, 0.14), transform=paper.transData)
    bar.imshow(np.linspace(0.02, 0.92, 128)[None], cmap=shades(), vmin=0, vmax=1, aspect="auto")
    bar.set(xticks=[], yticks=[])
    label = {"va": "center", "color": MUTED, "size": 10}
    paper.text(WIDTH - EDGE - 1.9, 0.59, "surprising  0", ha="right", **label)
    paper.text(WIDTH - EDGE - 0.22, 0.59, "1", **label)
    return describe(paper.figure, _surest(pieces, chances))


def _surest(pieces: Sequence[str], chances: np.ndarray) -> str:
    """A sentence on which tokens were the most surprising."""
    order = np.argsort(np.where(np.isfinite(chances), chances, np.inf))[:5]
    words = ", ".join(f"“{pieces[place].strip()}” {chances[place]:.2g}" for place in order)
    return f"A text, each token the darker the more probable. The most surprising: {words}."
