"""The whole model in one picture, drawn from its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slm.plots.style import (
    ARROW,
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    blank,
    describe,
    page,
    picture,
    tint,
)
from slm.plots.text import TILE, tile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STREAM = 3.28  # how far down the residual stream runs, in inches
CHANCES = (("·time", 0.86), ("·hill", 0.05), ("·day", 0.03), ("·bed", 0.02))  # an illustration


@picture
def architecture(config: Any) -> Figure:
    """Show the model from tokens to the next token's probabilities, as `config` describes it.

    `config` has the fields vocab_size, context_length, n_layers, n_heads, n_kv_heads, d_model,
    d_ff and tie_embeddings. The thick line is the residual stream, of shape (B, T, C): each layer
    reads from it twice, by way of a norm, and adds to it what it has worked out.
    """
    paper = page(blank(10.7, 5.0, layout=None))
    vocabulary = f"{config.vocab_size:,}"
    width = f"{config.d_model:,}"
    _layers(paper, config.n_layers)
    paper.plot([1.4, 8.2], [STREAM, STREAM], color=BLUE, lw=4, solid_capstyle="butt", zorder=2)
    for x in (1.78, 7.88):
        paper.text(x, STREAM - 0.14, "(B, T, C)", ha="center", size=10, color=MUTED)

    paper.text(0.87, 1.12, "the text so far", ha="center", size=11, color=MUTED)
    for index, word in enumerate(("Once", "·upon", "·a")):
        tile(paper, word, tint(PURPLE, 0.4), x=0.87 - 3.5 * TILE, y=1.24 + 0.28 * index, width=7)
    _arrow(paper, (0.87, 2.1), (0.87, STREAM - 0.38))
    paper.text(0.97, 2.5, "(B, T)", va="center", size=11, color=MUTED)
    _box(paper, 0.87, STREAM, 1.15, 0.72, PURPLE, "Embedding", [f"{vocabulary} × {width}"])

    heads = [f"{config.n_heads} heads of {config.d_model // config.n_heads}"]
    if config.n_kv_heads != config.n_heads:
        heads.append(f"{config.n_kv_heads} for keys and values")
    _branch(paper, 2.32, ORANGE, "Causal attention", heads)
    widths = f"{width} → {config.d_ff:,} → {width}"
    _branch(paper, 4.91, GREEN, "Feed-forward", [widths])

    _box(paper, 8.6, STREAM, 0.84, 0.5, MUTED, "RMSNorm")
    _arrow(paper, (9.02, STREAM), (9.28, STREAM))
    _box(paper, 9.87, STREAM, 1.15, 0.72, PURPLE, "Logits", [f"{width} × {vocabulary}"])
    _arrow(paper, (9.87, STREAM - 0.36), (9.87, 2.2))
    paper.text(9.77, 2.55, "(B, T, V)", va="center", ha="right", size=11, color=MUTED)
    paper.text(9.97, 2.55, "softmax", va="center", size=11, color=MUTED)
    _probabilities(paper)

    if config.tie_embeddings:
        low = STREAM + 0.93
        paper.plot(
            [0.87, 0.87, 9.87, 9.87],
            [STREAM + 0.38, low, low, STREAM + 0.38],
            color=PURPLE,
            lw=1.4,
            ls=(0, (3, 3)),
            zorder=0,
        )
        paper.text(
            4.76,
            low,
            " one and the same matrix ",
            size=11,
            color=MUTED,
            ha="center",
            va="center",
            bbox={"fc": "white", "ec": "none", "pad": 1},
        )
    paper.text(
        0.3,
        4.75,
        f"B: texts in a batch     T: tokens, at most {config.context_length:,}     "
        f"C: {config.d_model:,} numbers for each token     V: {config.vocab_size:,} tokens known",
        size=11,
        color=MUTED,
    )
    alt = f"tokens, embedding {vocabulary} by {width}, then {config.n_layers} layers"
    parts = "each adds to the residual stream first attention, then a feed-forward network"
    return describe(paper.figure, f"Diagram of the model: {alt}; {parts}; norm, logits, softmax.")


def _layers(paper: Axes, count: int) -> None:
    """Draw the frame of a layer, with the others behind it."""
    from matplotlib.patches import FancyBboxPatch

    for behind in (0.16, 0.08, 0.0)[0 if count > 2 else 3 - count :]:
        paper.add_patch(
            FancyBboxPatch(
                (2.1 + behind, 0.42 - behind),
                5.3,
                3.4,
                boxstyle="round,pad=0,rounding_size=0.12",
                fc="#FAFBFC",
                ec="#C4C9D0",
                lw=1.1,
                zorder=-2 - behind,
            )
        )
    times = "1 layer" if count == 1 else f"× {count} layers"
    paper.text(7.19, 0.73, times, ha="right", weight="bold", size=13, color=INK)
    paper.text(2.32, 3.66, "the residual stream: read, then added to", size=11, color=BLUE)


def _branch(paper: Axes, x: float, colour: str, name: str, lines: Sequence[str]) -> None:
    """Draw a way out of the stream, through a norm and a box, and back into a sum."""
    from matplotlib.patches import Circle

    fork = x + 0.5
    join = x + 1.7
    paper.add_patch(Circle((fork, STREAM), 0.055, fc=BLUE, ec="none", zorder=4))
    _arrow(paper, (fork, STREAM), (fork, 2.66))
    _box(paper, fork, 2.4, 0.84, 0.5, MUTED, "RMSNorm")
    _arrow(paper, (fork, 2.15), (fork, 1.92))
    _box(paper, x + 1.14, 1.42, 2.28, 0.98, colour, name, lines)
    _arrow(paper, (join, 1.92), (join, STREAM - 0.17))
    paper.text(join - 0.08, 2.4, "(B, T, C)", size=11, color=MUTED, va="center", ha="right")
    paper.add_patch(Circle((join, STREAM), 0.16, fc="white", ec=BLUE, lw=1.8, zorder=4))
    for dx, dy in ((0.08, 0), (0, 0.08)):
        paper.plot([join - dx, join + dx], [STREAM - dy, STREAM + dy], color=BLUE, lw=1.8, zorder=5)


def _box(
    paper: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    colour: str,
    name: str,
    lines: Sequence[str] = (),
) -> None:
    """Draw a named box round (x, y)."""
    from matplotlib.patches import FancyBboxPatch

    paper.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.08",
            fc=tint(colour, 0.22),
            ec=tint(colour, 0.9),
            lw=1.2,
            zorder=3,
        )
    )
    rows = [name, *lines]
    strong = {"size": 12, "weight": "bold"} if lines else {"size": 10.5}
    for index, row in enumerate(rows):
        style = {"size": 11, "color": "#4B5563"} if index else strong
        paper.text(
            x,
            y + 0.25 * (index - (len(rows) - 1) / 2),
            row,
            ha="center",
            va="center",
            zorder=4,
            **style,
        )


def _arrow(paper: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    paper.annotate("", end, start, arrowprops=ARROW)


def _probabilities(paper: Axes) -> None:
    """Draw a few next tokens with bars for their probabilities, as an example."""
    from matplotlib.patches import Rectangle

    paper.text(9.62, 0.84, "the next token", ha="center", size=11, color=MUTED)
    for index, (word, chance) in enumerate(CHANCES):
        y = 0.96 + 0.28 * index
        tile(paper, word, tint(PURPLE, 0.4), x=8.87, y=y, width=6)
        paper.add_patch(Rectangle((9.55, y + 0.04), chance * 0.9, 0.16, fc=BLUE, ec="none"))
