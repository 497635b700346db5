"""One look for every picture: its colours, its fonts, and how a drawing becomes a figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache, wraps
from io import BytesIO
from typing import TYPE_CHECKING, ParamSpec

import numpy as np
from numpy.typing import ArrayLike

from slm.plots.fonts import SANS, with_fallbacks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Okabe and Ito's palette, which stays apart for colour-blind eyes.
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
# Greys, from the darkest to the lightest: text, labels, lines, empty cells.
INK = "#222222"
MUTED = "#6B7280"
FAINT = "#D9DCE1"
PALE = "#F1F3F5"

ARROW = {"arrowstyle": "-|>", "color": MUTED, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
HEADING = {"weight": "bold", "size": 13}  # where a title is not an axes' own

STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": "figure",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 12,
    "text.color": INK,
    "text.parse_math": False,  # a story may hold a dollar sign
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#B5BAC2",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8EAED",
    "grid.linewidth": 0.8,
    "xtick.color": "#B5BAC2",
    "ytick.color": "#B5BAC2",
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 2,
    "legend.facecolor": "white",
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
}

WIDTH = 7.2  # inches: wide enough for a notebook, and still readable at half of it

P = ParamSpec("P")


def in_style() -> AbstractContextManager:
    """A context in which matplotlib draws in the shared style; nothing global is changed."""
    import matplotlib

    return matplotlib.rc_context({**STYLE, "font.family": with_fallbacks(SANS)})


def picture(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let `draw` work in the shared style and hand back a figure that a notebook shows once.

    The figure never enters pyplot, so nothing is left open and nothing global changes; it carries
    its own PNG for Jupyter, with a text for those who cannot see it: see `describe`.
    """

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with in_style():
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # ticks and layout are made now, while the style holds
        figure.set_layout_engine("none")
        if not hasattr(figure, "alt"):
            describe(figure, _titles(figure))
        figure._repr_png_ = lambda: _png(figure)
        figure._repr_mimebundle_ = lambda include=None, exclude=None: _bundle(figure)
        return figure

    return styled


def describe(figure: Figure, text: str) -> Figure:
    """Give a figure the text that stands in for it, `figure.alt`; return the figure."""
    figure.alt = " ".join(text.split())
    return figure


def _titles(figure: Figure) -> str:
    """What is written above a figure and its panels."""
    titles = [figure.get_suptitle()]
    titles += [axes.get_title(loc) for axes in figure.axes for loc in ("left", "center")]
    return "Picture: " + "; ".join(title for title in titles if title)


def _bundle(figure: Figure) -> tuple[dict, dict]:
    """Return the picture and its text, as Jupyter takes them, and the text once more as metadata,
    where nbconvert looks for it."""
    content = {"image/png": figure._repr_png_(), "text/plain": f"[{figure.alt}]"}
    return content, {"image/png": {"alt": figure.alt}}


def _png(figure: Figure) -> bytes:
    """Return the figure as a PNG of 256 colours, which keeps notebooks small."""
    from PIL import Image

    full = BytesIO()
    small = BytesIO()
    with in_style():  # else a different size of tick labels would be assumed, and ticks be added
        figure.savefig(full, format="png")
    with Image.open(full) as image:
        reduced = image.convert("RGB").quantize(
            256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
    reduced.save(small, "PNG", optimize=True)
    return small.getvalue()


def blank(width: float, height: float, *, layout: str | None = "constrained") -> Figure:
    """Return an empty figure of `width` × `height` inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def page(figure: Figure) -> Axes:
    """Lay bare axes under the whole figure, in inches from its top left corner."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0, 0, 1, 1), zorder=-1)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return axes


def tint(colour: str, strength: float = 0.3) -> tuple[float, float, float]:
    """Return `colour` mixed with white; `strength` 1 is the colour itself."""
    from matplotlib.colors import to_rgb

    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def array(values: ArrayLike) -> np.ndarray:
    """Return `values` as an array of floats, be they lists or tensors of any device and type."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu()
    return np.asarray(values, dtype=float)


@cache
def shades() -> Colormap:
    """Return the colour map of every heat map: white through blue to navy."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = ["#FFFFFF", "#D3E7F4", "#7DBAE0", BLUE, "#003B5C"]
    return LinearSegmentedColormap.from_list("slm", stops)


def heat_map(
    axes: Axes,
    matrix: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    number: str | None = None,
    limits: tuple[float, float] | None = None,
    size: float = 8.5,
) -> AxesImage:
    """Draw `matrix` as coloured cells with labels; `number`, such as `".2f"`, prints each value.

    Cells of −∞ stay grey. `limits` are the values of the lightest and the darkest colour; left
    out, they are the least and the greatest finite value.
    """
    values = array(matrix)
    finite = values[np.isfinite(values)]
    low, high = limits or (float(finite.min()), float(finite.max()))
    axes.set_facecolor(FAINT)
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap=shades(), vmin=low, vmax=high, aspect="auto"
    )
    axes.set_xticks(range(len(columns)), columns, color=INK, fontsize=size)
    axes.set_yticks(range(len(rows)), rows, color=INK, fontsize=size)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    if not number:
        return image
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            text = "−∞"
            ink = MUTED
        else:
            text = format(value, number).replace("-", "−")
            is_dark = value - low > 0.6 * (high - low)
            ink = "white" if is_dark else INK
        axes.text(column, row, text, ha="center", va="center", size=size, color=ink)
    return image
