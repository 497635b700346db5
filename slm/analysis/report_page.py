"""The page of a story report: HTML in one file, its pictures included. All text is escaped."""

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from slm import plots
from slm.analysis.openings import OPENINGS
from slm.analysis.originality import Copy
from slm.analysis.report_measurements import MAX_NEW_TOKENS, TEMPERATURE, Originality, StoryReport
from slm.evaluation import Evaluation

STYLE = """
body { font: 17px/1.6 Georgia, serif; color: #222; background: #fff; margin: 0 auto;
  max-width: 46rem; padding: 1.5rem 1rem 4rem; }
h1, h2, h3, table, figcaption, .notice { font-family: system-ui, sans-serif; line-height: 1.3; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #d9dce1; padding-bottom: .3rem; }
h3 { margin: 1.8rem 0 .2rem; }
.notice, figcaption, .facts { color: #6b7280; font-size: .9rem; }
table { border-collapse: collapse; font-size: .95rem; width: 100%; }
th, td { text-align: right; padding: .35rem .5rem; border-bottom: 1px solid #e8eaed; }
th:first-child, td:first-child { text-align: left; }
blockquote { margin: .8rem 0; padding: .1rem 0 .1rem 1rem; border-left: 3px solid #d9dce1;
  white-space: pre-line; }
mark { background: #fdeec4; color: inherit; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
"""


def make_page(report: StoryReport) -> str:
    """The whole page."""
    title = f"Story report: {escape(report.name)}"
    head = (
        "<meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{title}</title>"
        f"<style>{STYLE}</style>"
    )
    body = "".join(
        (
            f"<h1>{title}</h1>",
            _facts(report),
            "<h2>Is it good?</h2>",
            _scores(report),
            "<h2>Which words are hard?</h2>",
            _hardest_words(report.hardest_words),
            "<h2>Does it repeat itself, does it copy?</h2>",
            _originality(report),
            "<h2>What does it write?</h2>",
            _continuations(report.continuations),
        )
    )
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>"


def _facts(report: StoryReport) -> str:
    config = report.config
    text = (
        f"{report.parameters:,} parameters in {config.n_layers} layers of width {config.d_model}; "
        f"a vocabulary of {config.vocab_size:,} tokens, of which it looks back on "
        f"{config.context_length}. Stories: {report.source}."
    )
    return f"<p class=facts>{escape(text)}</p>"


def _scores(report: StoryReport) -> str:
    rows = []
    for name, score in report.scores.items():
        bits = f"{score.bits_per_byte:.3f}"
        nats = f"{score.nats_per_token:.3f}"
        rows.append((name, bits, nats, f"{score.perplexity:.1f}"))
    table = _table(("", "bits per byte", "nats per token", "perplexity"), rows)

    own_score = report.scores[report.name]
    bars = plots.scores({name: score.bits_per_byte for name, score in report.scores.items()})
    bars_caption = (
        f"{report.held_out_stories:,} validation stories of {report.source}, "
        f"{own_score.tokens:,} tokens. Lower is better."
    )
    by_position = _loss_by_position(own_score, report.held_out_stories)
    position_caption = "Loss by place in the story: context helps."
    return table + _figure(bars, bars_caption) + _figure(by_position, position_caption)


def _loss_by_position(score: Evaluation, stories: int) -> Figure:
    """Only the places that at least a twentieth of the stories reach: beyond it is noise."""
    means = np.array(score.nats_by_position)
    counts = np.array(score.stories_by_position)
    enough = counts >= max(stories // 20, 1)
    return plots.loss_by_position(means[enough], counts[enough])


def _hardest_words(words: list[tuple[str, float, int]]) -> str:
    if not words:
        return "<p>No word came often enough.</p>"
    rows = []
    for word, nats, count in words[:12]:
        rows.append((word, f"{nats:.1f}", f"{np.exp(-nats):.2%}", f"{count}"))
    return _table(("word", "nats", "chance it had", "times"), rows)


def _originality(report: StoryReport) -> str:
    labels = (
        f"stop by themselves within {MAX_NEW_TOKENS} tokens",
        "different runs of 3 words",
        "runs of 4 words said before in the story",
        "longest run that stands in the training stories, median",
        "... and the longest of all",
        "more than half copied in one run",
    )
    generated = [f"{report.stopped:.0%}", *_originality_cells(report.generated)]
    held_out = ["-", *_originality_cells(report.held_out)]
    header = (
        f"of {report.generated.stories} stories",
        "written",
        f"real ones ({report.held_out.stories})",
    )
    return _table(header, zip(labels, generated, held_out, strict=True))


def _originality_cells(measured: Originality) -> list[str]:
    return [
        f"{measured.distinct:.1%}",
        f"{measured.repetition:.1%}",
        f"{measured.median_copy:.0f} words",
        f"{measured.longest_copy} words",
        f"{measured.mostly_copied:.1%}",
    ]


def _continuations(continuations: list[tuple[str, Copy]]) -> str:
    parts = [
        f"<p class=notice>One story for each beginning, at temperature {TEMPERATURE}, not "
        "selected. Marked is the longest run of words that stands in the training stories.</p>"
    ]
    probe = None
    for opening, (text, copy) in zip(OPENINGS, continuations, strict=True):
        if opening.probe != probe:  # the openings of a probe stand together
            probe = opening.probe
            parts.append(f"<h3>{escape(probe.capitalize())}</h3>")
            parts.append(f"<p class=notice>{escape(opening.notice)}</p>")
        parts.append(_story(opening.text, text, copy))
    return "".join(parts)


def _story(opening: str, text: str, copy: Copy) -> str:
    """A story in HTML: its opening in bold, and the longest run that was copied marked. The two can
    overlap, so that the text is cut wherever one of them begins or ends.
    """
    opening_end = min(len(opening), len(text))
    copy_start, copy_end = _span_of(copy, text)
    cuts = sorted({0, opening_end, copy_start, copy_end, len(text)})
    parts = []
    for start, end in pairwise(cuts):
        part = escape(text[start:end])
        if copy_start <= start < copy_end:
            part = f"<mark>{part}</mark>"
        if start < opening_end:
            part = f"<b>{part}</b>"
        parts.append(part)
    return f"<blockquote>{''.join(parts)}</blockquote>"


def _span_of(copy: Copy, text: str) -> tuple[int, int]:
    """Where the copied words begin and end in the text, in characters; (0, 0) for none."""
    words = list(re.finditer(r"\S+", text))[copy.start : copy.start + copy.words]
    if not words:
        return 0, 0
    return words[0].start(), words[-1].end()


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    html_rows = ["".join(f"<th>{escape(cell)}</th>" for cell in header)]
    for row in rows:
        html_rows.append("".join(f"<td>{escape(cell)}</td>" for cell in row))
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in html_rows) + "</table>"


def _figure(figure: Figure, caption: str) -> str:
    """A picture, as a part of the page itself, and its caption."""
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=160)
    data = b64encode(picture.getvalue()).decode()
    words = escape(caption)
    image = f"<img src='data:image/png;base64,{data}' alt='{words}'>"
    return f"<figure>{image}<figcaption>{words}</figcaption></figure>"
