"""Pictures of training: the loss, and the stories written on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.plots.style import (
    BLUE,
    FAINT,
    MUTED,
    ORANGE,
    VERMILION,
    WIDTH,
    blank,
    describe,
    page,
    picture,
    tint,
)
from slm.plots.text import drawable, height, typeset, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DARK_ORANGE = "#8F6200"  # orange that can be read as text on white


@picture
def loss_curve(
    history: Any,
    *,
    baselines: Mapping[str, float] | None = None,
    title: str | None = None,
    zoom: bool = False,
) -> Figure:
    """Show the loss, in nats per token, against the tokens trained on so far.

    `history.steps` have the attributes loss, tokens and seconds, the last two counted from the
    beginning; `history.evaluations` have tokens and nats_per_token. `baselines` are dashed lines:
    the losses of simpler models, by name. With `zoom` the first tenth of the run, in which the
    loss falls from the sky, is cut off, and so are baselines above what is left.
    """
    figure = blank(WIDTH, 3.9)
    axes = figure.subplots()
    _draw_loss(axes, history, baselines, title)
    sentence = _loss_in_words(history)
    if zoom:
        _zoom(axes, history)
        sentence += " Only what comes after the first tenth is shown."
    return describe(figure, sentence)


def _zoom(axes: Axes, history: Any) -> None:
    """Show only what happens after the first tenth of the run."""
    tokens, losses, unit = _losses(history)
    start = len(losses) // 10
    shown = [*losses[start:]]
    shown += [one.nats_per_token for one in history.evaluations if one.tokens >= tokens[start]]
    shown = [value for value in shown if np.isfinite(value)]
    if not shown:
        return
    margin = 0.08 * (max(shown) - min(shown)) + 0.01
    low = min(shown) - margin
    high = max(shown) + margin
    axes.set_xlim(tokens[start] / unit, tokens[-1] / unit)
    axes.set_ylim(low, high)
    _remove_labels(axes)
    _label_ends(axes, history)


def _loss_in_words(history: Any) -> str:
    """A sentence on how the losses went."""
    if not history.steps:
        return "A loss curve without a step."
    first = history.steps[0].loss
    _, losses, _ = _losses(history)
    sentence = f"Loss curve over {len(history.steps):,} steps, from {first:.2f} to {losses[-1]:.2f}"
    if history.evaluations:
        last = history.evaluations[-1].nats_per_token
        sentence += f" nats per token; validation at the end {last:.2f}"
    return sentence + "."


@picture
def live(
    history: Any, *, baselines: Mapping[str, float] | None = None, title: str | None = None
) -> Figure:
    """Show `loss_curve` with the newest sample under it; `LiveCurve` draws this while training."""
    deep = 5.4
    figure = blank(WIDTH, deep)
    figure.set_layout_engine("constrained", rect=(0, 1.5 / deep, 1, 1 - 1.5 / deep))
    _draw_loss(figure.subplots(), history, baselines, title)
    if history.evaluations:
        newest = history.evaluations[-1]
        paper = page(figure)
        heading = f"A story after step {newest.step:,}"
        paper.text(0.35, deep - 1.24, heading, weight="bold", size=11)
        typeset(paper, wrap(newest.text, width=6.5, lines=4), x=0.35, y=deep - 1.16)
    return describe(figure, _loss_in_words(history))


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
    wide = 11.0
    deep = 4.6
    split = 6.0  # where the curve ends and the story begins
    figure = blank(wide, deep)
    figure.set_layout_engine("constrained", rect=(0, 0, split / wide, 1))
    axes = figure.subplots()
    _draw_loss(axes, history, None, title or "What the model learnt", names=False)
    paper = page(figure)
    paper.set_zorder(3)
    _mark_milestones(axes, paper, history, _milestones(history.evaluations, milestones))
    paper.plot([split + 0.25] * 2, [0.35, deep - 0.35], color=FAINT, lw=1)
    size, rows = _fit(story, width=wide - split - 0.9, max_height=deep - 0.7, lead=prompt)
    top = (deep - height(rows, size)) / 2
    typeset(paper, rows, x=split + 0.55, y=top, size=size, lead_colour=BLUE)
    return describe(figure, f"{_loss_in_words(history)} Beside it a story: {story}")


def _fit(story: str, *, width: float, max_height: float, lead: str) -> tuple[int, list]:
    """The largest size in which a story is no higher than `max_height`, and its lines in it."""
    for size in (16, 15, 14, 13, 12, 11):
        rows = wrap(story, width=width, size=size, lead=lead)
        if height(rows, size) < max_height:
            return size, rows
    return 11, wrap(story, width=width, size=11, lead=lead, lines=16)


def _mark_milestones(axes: Axes, paper: Axes, history: Any, samples: Sequence[Any]) -> None:
    """Number some moments on the curve, and quote beside it what was written then."""
    tokens, losses, unit = _losses(history)
    steps = np.array([entry.step for entry in history.steps])
    disc = {"boxstyle": "circle,pad=0.25", "fc": VERMILION, "ec": "white"}
    label = {"size": 9, "weight": "bold", "color": "white", "ha": "center", "va": "center"}
    for number, sample in enumerate(samples):
        place = int(np.abs(steps - sample.step).argmin())
        at = (tokens[place] / unit, losses[place])
        axes.annotate(str(number + 1), at, bbox=disc, zorder=5, **label)
        y = 0.62 + 0.73 * number
        paper.text(2.25, y, str(number + 1), bbox=disc, **label)
        paper.text(2.47, y, f"step {sample.step:,}", va="center", size=9, color=MUTED)
        quoted = wrap(sample.text, width=3.3, size=11, lines=2)
        typeset(paper, quoted, x=2.47, y=y + 0.11, size=11)


@picture
def story_strip(stories: Sequence[tuple[str, str]], *, prompt: str = "", lines: int = 2) -> Figure:
    """Show what the model writes at several moments of training: a row for each (label, text).

    Each text is cut after `lines` lines; where it begins with `prompt`, that part is bold.
    """
    left = 1.25
    texts = [wrap(text, width=WIDTH - left - 0.3, lead=prompt, lines=lines) for _, text in stories]
    highs = [height(rows, 12) + 0.25 for rows in texts]
    figure = blank(WIDTH, sum(highs) + 0.1, layout=None)
    paper = page(figure)
    top = 0.2
    for (label, _), rows, high in zip(stories, texts, highs, strict=True):
        if top > 0.2:
            paper.plot([0.2, WIDTH - 0.2], [top - 0.11] * 2, color=FAINT, lw=1)
        paper.text(0.2, top + 0.05, label, va="top", weight="bold", color=BLUE, size=11)
        typeset(paper, rows, x=left, y=top, lead_colour=BLUE)
        top += high
    alt = "; ".join(f"{label}: {shorten(text, 80, placeholder=' …')}" for label, text in stories)
    return describe(figure, f"What is written at several moments. {alt}.")


def _milestones(samples: Sequence[Any], steps: Sequence[int] | None) -> list[Any]:
    if steps is not None:
        return [min(samples, key=lambda sample: abs(sample.step - step)) for step in steps]
    last = len(samples) - 1
    return [samples[place] for place in sorted({0, last // 3, last}) if samples]


def _losses(history: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the tokens, the smoothed losses and the unit in which tokens are counted."""
    tokens = np.array([entry.tokens for entry in history.steps], dtype=float)
    losses = np.array([entry.loss for entry in history.steps], dtype=float)
    smooth = losses
    if len(losses):
        window = np.ones(max(1, len(losses) // 60))
        weight = np.convolve(np.ones(len(losses)), window, "same")
        smooth = np.convolve(losses, window, "same") / weight
    return tokens, smooth, _unit(tokens.max(initial=1))


def _unit(tokens: float) -> float:
    """In millions, thousands or ones, so that so many tokens are a short number."""
    if tokens >= 2e6:
        return 1e6
    if tokens >= 2e3:
        return 1e3
    return 1.0


def _draw_loss(
    axes: Axes,
    history: Any,
    baselines: Mapping[str, float] | None,
    title: str | None,
    *,
    names: bool = True,
) -> None:
    """Draw the loss into `axes`; `names` are written at the right end of each line."""
    tokens, smooth, unit = _losses(history)
    places = tokens / unit
    raw = [entry.loss for entry in history.steps]
    axes.plot(places, raw, color=tint(BLUE, 0.35), lw=0.7, label="training, each step")
    axes.plot(places, smooth, color=BLUE, label="training, smoothed")
    values = [one.nats_per_token for one in history.evaluations]
    if values:
        at = [one.tokens / unit for one in history.evaluations]
        style = {"color": ORANGE, "ms": 6.5, "mec": "#222222", "mew": 0.7}
        axes.plot(at, values, "o", label="validation", clip_on=False, zorder=4, **style)
    for name, loss in (baselines or {}).items():
        axes.axhline(loss, color=MUTED, lw=1.1, ls=(0, (5, 3)), label=name)
    heights = [loss for loss in (*raw, *values, *(baselines or {}).values()) if np.isfinite(loss)]
    counted = {1e6: ", millions", 1e3: ", thousands"}.get(unit, "")
    axes.set_title(title or "Loss while training")
    axes.set_xlabel(f"tokens trained on{counted}")
    axes.set_ylabel("loss, nats per token")
    axes.set_xlim(0, places.max(initial=0) or 1)
    axes.set_ylim(0, 1.06 * max(heights, default=1))  # a run may go astray: NaN is left out
    if names:
        _label_ends(axes, history, baselines)
        _minutes(axes, places, [entry.seconds / 60 for entry in history.steps])
    else:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[1:], labels[1:], loc="lower left")


def _label_ends(axes: Axes, history: Any, baselines: Mapping[str, float] | None = None) -> None:
    """Write each line's name and last value beside the right edge, moved apart where they touch."""
    _, smooth, _ = _losses(history)
    labels = [(smooth[-1], f"training {smooth[-1]:.2f}", BLUE)] if len(smooth) else []
    if history.evaluations:
        last = history.evaluations[-1].nats_per_token
        labels.append((last, f"validation {last:.2f}", DARK_ORANGE))
    for name, loss in (baselines or {}).items():
        labels.append((loss, f"{drawable(name)} {loss:.2f}", MUTED))
    low, high = axes.get_ylim()
    gap = 0.075 * (high - low)
    lowest = low
    beside = axes.get_yaxis_transform()
    for loss, name, colour in sorted(label for label in labels if np.isfinite(label[0])):
        lowest = max(loss, lowest)
        label = axes.text(1.015, lowest, name, color=colour, size=10.5, transform=beside)
        label.set_va("center")
        label.set_gid("end of a line")
        lowest += gap


def _remove_labels(axes: Axes) -> None:
    """Take the names beside the right edge away."""
    for text in list(axes.texts):
        if text.get_gid() == "end of a line":
            text.remove()


def _minutes(axes: Axes, places: np.ndarray, minutes: Sequence[float]) -> None:
    """Add a thin axis of minutes on top."""
    from matplotlib.ticker import MaxNLocator

    if not minutes or minutes[-1] <= 0:
        return
    ticks = MaxNLocator(6).tick_values(0, minutes[-1])
    ticks = ticks[ticks <= minutes[-1]]
    top = axes.secondary_xaxis("top")
    top.set_xticks(np.interp(ticks, [0, *minutes], [0, *places]), [f"{tick:g}" for tick in ticks])
    top.tick_params(length=3, labelsize=9)
    top.set_xlabel("minutes", size=9)
    top.spines["top"].set(visible=True, lw=0.8, color=FAINT)
