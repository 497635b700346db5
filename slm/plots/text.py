"""Text inside pictures: tokens as tiles on a grid, and stories set as paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from slm.plots.fonts import MONO, SANS, SERIF, glyphs, with_fallbacks
from slm.plots.style import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EM = 0.602  # the width of a DejaVu Sans Mono character, as a part of its size
TILE = 0.112  # the width of a character in a tile, in inches
LEADING = 1.42  # from one line of a paragraph to the next, in sizes of its font
ROW = 0.29  # from one row of tiles to the next, in inches


def drawable(text: str, font: str = SANS) -> str:
    """Return `text` with □ for each character that no font here can draw (an emoji, say)."""
    have = glyphs(font)
    return "".join(c if ord(c) in have or c.isspace() else "□" for c in text)


def visible(piece: str) -> str:
    """Return a token as it is shown: spaces as ·, ends of lines as ↵, tabs as ⇥."""
    marks = str.maketrans({" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"})
    return drawable(piece.translate(marks), MONO)


def columns(shown: str) -> int:
    """How many columns a text takes in the monospaced font: Chinese characters take two each."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in shown)


def flow(pieces: Sequence[str], line: int) -> Iterator[tuple[int, int, str]]:
    """Yield (row, column, shown) for each token, wrapped after `line` columns."""
    row = column = 0
    for piece in pieces:
        shown = visible(piece)[:line]
        if column + columns(shown) > line:
            row += 1
            column = 0
        yield row, column, shown
        column += columns(shown)
        if piece.endswith("\n"):
            row += 1
            column = 0


def tile(
    page: Axes,
    shown: str,
    fill: Any,
    *,
    x: float,
    y: float,
    width: int | None = None,
    pitch: float = TILE,
    ink: str = INK,
    edge: str = "white",
) -> None:
    """Draw one token on a coloured ground; (x, y) is its top left corner, in inches.

    The ground is `width` columns wide, or as wide as the token; a column takes `pitch` inches.
    """
    from matplotlib.patches import Rectangle

    height = ROW * pitch / TILE
    width = width or columns(shown)
    page.add_patch(Rectangle((x, y), width * pitch, height * 0.88, fc=fill, ec=edge, lw=0.8))
    x += (width - columns(shown)) * pitch / 2
    faint = MUTED if ink == INK else "#D3E7F4"
    for run in re.finditer("[·↵⇥␍]+|[^·↵⇥␍]+", shown):
        page.text(
            x + columns(shown[: run.start()]) * pitch,
            y + height * 0.44,
            run.group(),
            family=with_fallbacks(MONO),
            size=pitch * 72 / EM * 0.99,
            va="center_baseline",
            color=faint if run.group()[0] in "·↵⇥␍" else ink,
        )


def _width(text: str, size: float, weight: str) -> float:
    """Return the width of `text` in the serif font, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=with_fallbacks(SERIF), size=size, weight=weight)
    return text_to_path.get_text_width_height_descent(text, font, False)[0] / 72


def _gap(size: float) -> float:
    return _width("n n", size, "normal") - _width("nn", size, "normal")


def wrap(
    text: str, *, width: float, size: float = 12, lead: str = "", lines: int | None = None
) -> list[tuple[float, list[tuple[str, str]]]]:
    """Break `text` into lines of `width` inches in the serif font: (top, [(word, weight), …]).

    `top` is a line's place in lines from the first, with a little more between paragraphs. If the
    text begins with `lead`, its words are "bold". After `lines` lines the rest becomes "…".
    """
    text = drawable(text.strip(), SERIF)
    lead = drawable(lead.strip(), SERIF)
    bold = len(lead) if text.startswith(lead) else 0
    gap = _gap(size)
    rows: list[tuple[float, list[tuple[str, str]]]] = [(0.0, [])]
    left = 0.0
    for match in re.finditer(r"\n+|\S+", text):
        word = match.group()
        weight = "bold" if match.start() < bold else "normal"
        if "\n" in word:
            rows.append((rows[-1][0] + 1.4, []))
            left = 0.0
            continue
        room = _width(word, size, weight)
        if left and left + room > width:
            rows.append((rows[-1][0] + 1, []))
            left = 0.0
        rows[-1][1].append((word, weight))
        left += room + gap
    if lines is not None and len(rows) > lines:
        rows = rows[:lines]
        rows[-1][1][-1] = ("…", "normal")
    return rows


def height(rows: list[tuple[float, list[tuple[str, str]]]], size: float) -> float:
    """Return how high lines from `wrap` stand, in inches."""
    return (rows[-1][0] + 1) * size * LEADING / 72


def typeset(
    page: Axes,
    rows: list[tuple[float, list[tuple[str, str]]]],
    *,
    x: float,
    y: float,
    size: float = 12,
    lead_colour: str = INK,
) -> None:
    """Set lines from `wrap`, at the same `size`, with their top left corner at (x, y) inches."""
    for top, words in rows:
        left = x
        for weight, run in groupby(words, key=itemgetter(1)):
            text = " ".join(word for word, _ in run)
            label = page.text(
                left,
                y + (top + 0.75) * size * LEADING / 72,
                text,
                family=with_fallbacks(SERIF),
                size=size,
                weight=weight,
                color=lead_colour if weight == "bold" else INK,
            )
            right = label.get_window_extent().x1 / page.figure.dpi
            left = right + _gap(size)
