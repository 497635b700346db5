"""Pictures of training: the learning rate, the loss, and the stories told on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from slm.plots.style import (
    BLUE,
    FAINT,
    MUTED,
    ORANGE,
    PALETTE,
    VERMILION,
    array,
    blank,
    page,
    picture,
    tint,
)
from slm.plots.text import drawable, height, typeset, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@picture
def schedule(rates: Mapping[str, ArrayLike], *, title: str | None = None) -> Figure:
    """Show the learning rate at each step: one line for each named list of rates."""
    figure = blank(8, 3.2)
    axes = figure.subplots()
    styles = zip(PALETTE, ("-", "--", ":", "-.", "-", "--"), strict=True)
    for (name, values), (colour, dashes) in zip(rates.items(), styles, strict=False):
        thousandths = 1000 * array(values)
        axes.plot(thousandths, dashes, color=colour, label=drawable(name))
    if len(rates) > 1:
        axes.legend()
    axes.set(
        title=title or "How large a step is, from the first to the last",
        xlabel="step",
        ylabel="learning rate, thousandths",
    )
    axes.margins(x=0)
    axes.set_ylim(0)
    return figure


@picture
def loss_curve(
    history: Any, *, baselines: Mapping[str, float] | None = None, title: str | None = None
) -> Figure:
    """Show the loss, in nats per token, against the tokens trained on so far.

    `history.steps` have the attributes loss, tokens and seconds, the last two counted from the
    beginning; `history.evaluations` have tokens and nats_per_token. `baselines` are dashed lines:
    the losses of simpler models, by name.
    """
    figure = blank(9, 4.2)
    _draw_loss(figure.subplots(), history, baselines, title)
    return figure


@picture
def live(
    history: Any, *, baselines: Mapping[str, float] | None = None, title: str | None = None
) -> Figure:
    """Show `loss_curve` with the newest sample under it; `LiveCurve` draws this while training."""
    deep, samples = 5.6, list(history.evaluations)
    figure = blank(9, deep)
    figure.set_layout_engine("constrained", rect=(0, 1.5 / deep, 1, 1 - 1.5 / deep))
    _draw_loss(figure.subplots(), history, baselines, title)
    if samples:
        paper = page(figure)
        step, text = samples[-1].step, samples[-1].text
        paper.text(0.55, deep - 1.28, f"A story after step {step:,}", weight="bold", size=10)
        typeset(paper, wrap(text, width=7.9, lines=4), x=0.55, y=deep - 1.2)
    return figure


@picture
def story_and_curve(
    story: str,
    history: Any,
    *,
    prompt: str = "",
    milestones: Sequence[int] | None = None,
    title: str | None = None,
) -> Figure:
    """Show what training came to: the loss with three milestones, and beside it a finished story.

    A milestone is one of `history.evaluations` (attributes step and text), numbered on the curve
    and quoted beside it; `milestones` names their steps, otherwise the first, a middle and the
    last are taken. Where the story begins with `prompt`, that part is bold.
    """
    wide, deep, split = 11.0, 4.6, 6.0
    figure = blank(wide, deep)
    figure.set_layout_engine("constrained", rect=(0, 0, split / wide, 1))
    axes = figure.subplots()
    _draw_loss(axes, history, None, title or "What the model learnt", names=False)
    tokens, losses, scale = _losses(history)
    steps = np.array([entry.step for entry in history.steps])
    paper = page(figure)
    paper.set_zorder(3)
    disc = {"boxstyle": "circle,pad=0.25", "fc": VERMILION, "ec": "white"}
    label = {"size": 9, "weight": "bold", "color": "white", "ha": "center", "va": "center"}
    for number, sample in enumerate(_milestones(history.evaluations, milestones)):
        place = int(np.abs(steps - sample.step).argmin())
        at = tokens[place] / scale, losses[place]
        axes.annotate(str(number + 1), at, bbox=disc, zorder=5, **label)
        y = 0.62 + 0.73 * number
        paper.text(2.25, y, str(number + 1), bbox=disc, **label)
        paper.text(2.47, y, f"step {sample.step:,}", va="center", size=9, color=MUTED)
        typeset(paper, wrap(sample.text, width=3.3, size=11, lines=2), x=2.47, y=y + 0.11, size=11)

    paper.plot([split + 0.25] * 2, [0.35, deep - 0.35], color=FAINT, lw=1)
    room = wide - split - 0.9
    for size in (16, 15, 14, 13, 12, 11):
        rows = wrap(story, width=room, size=size, lead=prompt)
        if height(rows, size) < deep - 0.7:
            break
    else:
        rows = wrap(story, width=room, size=size, lead=prompt, lines=16)
    top = (deep - height(rows, size)) / 2
    typeset(paper, rows, x=split + 0.55, y=top, size=size, lead_colour=BLUE)
    return figure


@picture
def story_strip(stories: Sequence[tuple[str, str]], *, prompt: str = "", lines: int = 3) -> Figure:
    """Show what the model writes at several moments of training: a row for each (label, text).

    Each text is cut after `lines` lines; where it begins with `prompt`, that part is bold.
    """
    texts = [wrap(text, width=7.45, lead=prompt, lines=lines) for _, text in stories]
    highs = [height(rows, 12) + 0.3 for rows in texts]
    figure = blank(9.5, sum(highs) + 0.1, layout=None)
    paper = page(figure)
    top = 0.2
    for (label, _), rows, high in zip(stories, texts, highs, strict=True):
        if top > 0.2:
            paper.plot([0.25, 9.25], [top - 0.13] * 2, color=FAINT, lw=1)
        paper.text(0.25, top + 0.05, label, va="top", weight="bold", color=BLUE, linespacing=1.5)
        typeset(paper, rows, x=1.75, y=top, lead_colour=BLUE)
        top += high
    return figure


def _milestones(samples: Sequence[Any], steps: Sequence[int] | None) -> list[Any]:
    if steps is not None:
        return [min(samples, key=lambda sample: abs(sample.step - step)) for step in steps]
    last = len(samples) - 1
    return [samples[place] for place in sorted({0, last // 3, last}) if samples]


def _losses(history: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the tokens, the smoothed losses and the unit in which tokens are counted."""
    tokens = np.array([entry.tokens for entry in history.steps], dtype=float)
    losses = np.array([entry.loss for entry in history.steps], dtype=float)
    window = np.ones(max(1, len(losses) // 60))
    weight = np.convolve(np.ones(len(losses)), window, "same") if len(losses) else losses
    smooth = np.convolve(losses, window, "same") / weight if len(losses) else losses
    most = tokens.max(initial=1)
    return tokens, smooth, 1e6 if most >= 2e6 else 1e3 if most >= 2e3 else 1.0


def _draw_loss(
    axes: Axes,
    history: Any,
    baselines: Mapping[str, float] | None,
    title: str | None,
    *,
    names: bool = True,
) -> None:
    """Draw the loss into `axes`; `names` are written at the right end of each line."""
    tokens, smooth, scale = _losses(history)
    places = tokens / scale
    raw = [entry.loss for entry in history.steps]
    axes.plot(places, raw, color=tint(BLUE, 0.35), lw=0.7, label="training, each step")
    axes.plot(places, smooth, color=BLUE, label="training, smoothed")
    labels = [(smooth[-1], "training", BLUE)] if len(smooth) else []
    if evaluations := list(history.evaluations):
        values = [one.nats_per_token for one in evaluations]
        looks = {"color": ORANGE, "ms": 5.5, "mec": "white", "mew": 0.7}
        at = [one.tokens / scale for one in evaluations]
        axes.plot(at, values, "o", label="validation", clip_on=False, zorder=4, **looks)
        labels += [(values[-1], f"validation {values[-1]:.2f}", "#A36F00")]
    for name, loss in (baselines or {}).items():
        axes.axhline(loss, color=MUTED, lw=1.1, ls=(0, (5, 3)), label=name)
        labels.append((loss, f"{drawable(name)} {loss:.2f}", MUTED))
    labels = [label for label in labels if np.isfinite(label[0])]  # a run may go astray
    heights = [loss for loss in (*raw, *(label[0] for label in labels)) if np.isfinite(loss)]
    unit = {1e6: ", millions", 1e3: ", thousands"}.get(scale, "")
    axes.set(
        title=title or "Loss while training",
        xlabel=f"tokens trained on{unit}",
        ylabel="loss, nats per token",
        xlim=(0, places.max(initial=0) or 1),
        ylim=(0, 1.06 * max(heights, default=1)),
    )
    if names:
        _name_lines(axes, labels)
        _minutes(axes, places, [entry.seconds / 60 for entry in history.steps])
    else:
        axes.legend(*[part[1:] for part in axes.get_legend_handles_labels()], loc="lower left")


def _name_lines(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Write (loss, name, colour) beside the right edge, moved apart where they would touch."""
    gap, lowest = 0.055 * axes.get_ylim()[1], 0.0
    for loss, name, colour in sorted(labels):
        lowest = max(loss, lowest)
        axes.text(
            1.015,
            lowest,
            name,
            color=colour,
            size=9,
            va="center",
            transform=axes.get_yaxis_transform(),
        )
        lowest += gap


def _minutes(axes: Axes, places: np.ndarray, minutes: Sequence[float]) -> None:
    """Add a thin axis of minutes on top."""
    from matplotlib.ticker import MaxNLocator

    if not minutes or minutes[-1] <= 0:
        return
    ticks = MaxNLocator(6).tick_values(0, minutes[-1])
    ticks = ticks[ticks <= minutes[-1]]
    top = axes.secondary_xaxis("top")
    top.set_xticks(np.interp(ticks, [0, *minutes], [0, *places]), [f"{tick:g}" for tick in ticks])
    top.tick_params(length=3, labelsize=8)
    top.set_xlabel("minutes", size=8)
    top.spines["top"].set(visible=True, lw=0.8, color=FAINT)
