"""Pictures of rotary positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from slm.plots.style import (
    ARROW,
    BLUE,
    FAINT,
    GREEN,
    HEADING,
    ORANGE,
    WIDTH,
    blank,
    describe,
    picture,
    shades,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POSITIONS = 6  # how many are drawn


def pair_speeds(head_dim: int, theta: float) -> np.ndarray:
    """Radians by which each pair of a head's numbers turns from one position to the next."""
    return theta ** (-np.arange(0, head_dim, 2) / head_dim)


@picture
def rotary(*, head_dim: int = 64, theta: float = 10_000.0) -> Figure:
    """Show three pairs of a head's `head_dim` numbers at the first positions, each as an arrow.

    Pair i turns by `theta ** (-2i / head_dim)` radians per position: some fast, others slowly.
    """
    speeds = pair_speeds(head_dim, theta)
    chosen = (0, head_dim // 16, head_dim // 8)
    figure = blank(WIDTH, 3.1)
    panels = figure.subplots(1, 3)
    for axes, pair in zip(panels, chosen, strict=True):
        _draw_turns(axes, speeds[pair])
        axes.set_title(f"pair {pair}", loc="center", weight="normal", size=12)
        axes.set_xlabel(f"{np.degrees(speeds[pair]):.3g}° per position")
    figure.suptitle("A pair of numbers turns with its position", x=0.02, ha="left", **HEADING)
    turns = ", ".join(f"pair {pair} by {np.degrees(speeds[pair]):.3g} degrees" for pair in chosen)
    return describe(
        figure, f"Arrows in a circle for positions 0 to 5; each position turns {turns}."
    )


def _draw_turns(axes: Axes, speed: float) -> None:
    """Draw an arrow for each position, and number those that stand apart."""
    from matplotlib.patches import Circle

    axes.add_patch(Circle((0, 0), 1, fill=False, ec=FAINT))
    for position in range(POSITIONS):
        angle = position * speed
        tip = (np.cos(angle), np.sin(angle))
        style = {**ARROW, "color": shades()(0.3 + 0.14 * position), "lw": 2}
        axes.annotate("", tip, (0, 0), arrowprops=style)
        first_or_last = position in (0, POSITIONS - 1)
        if speed > 0.3 or first_or_last:
            place = (1.2 * tip[0], 1.2 * tip[1])
            axes.text(*place, position, ha="center", va="center", size=11)
    axes.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


@picture
def rotary_distance(*, head_dim: int = 64, theta: float = 10_000.0) -> Figure:
    """Show query · key for equal vectors of length 1 at several places: only distance matters."""
    speeds = pair_speeds(head_dim, theta)
    figure = blank(WIDTH, 3.5)
    axes = figure.subplots()
    distances = np.arange(0, 65)
    dots = np.cos(distances[:, None] * speeds).mean(axis=1)
    axes.plot(distances, dots, color="#9AA3AF", lw=1.5, label="worked out from the distance")
    queries = ((64, BLUE, "o"), (128, ORANGE, "s"), (200, GREEN, "^"))  # a position each
    for number, (query, colour, marker) in enumerate(queries):
        keys = query - distances[number * 2 :: 6]
        turned_query = np.exp(1j * query * speeds)
        turned_keys = np.exp(1j * np.outer(keys, speeds))
        seen = (turned_query * turned_keys.conj()).real.mean(axis=1)
        axes.plot(query - keys, seen, marker, color=colour, ms=6.5, label=f"query at {query}")
    axes.legend(loc="upper right")
    axes.set_title("Query · key depends on the distance alone")
    axes.set_xlabel("distance from query to key, in tokens")
    axes.set_ylabel("query · key")
    axes.set_xlim(-1, 65)
    alt = "Points for queries at positions 64, 128 and 200 lie on one curve"
    return describe(figure, f"{alt}, which falls from 1 at distance 0 and then swings.")
