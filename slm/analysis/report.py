"""One page about a model: how good, how original, and what it writes (optional)."""

import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from slm.analysis.ngram import NGram
from slm.analysis.openings import OPENINGS
from slm.analysis.originality import Copy, distinct, longest_copies, repetition
from slm.evaluation import Evaluation, summarize, token_nats
from slm.generation.text_generation import generate, generate_tokens
from slm.model.transformer import Transformer
from slm.settings import SamplingConfig
from slm.stories.cleaning import Stories
from slm.stories.loading import load_stories
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.files import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def write_many(
    model: Transformer, tokenizer: Tokenizer, n: int, **settings
) -> tuple[list[str], float]:
    """`n` stories that begin with nothing, and the share of them that stopped by themselves within
    `max_new_tokens`. `settings` are fields of `SamplingConfig`."""
    ids = torch.full((n, 1), tokenizer.eot_id)
    drawn = list(generate_tokens(model, ids, SamplingConfig(**settings), tokenizer.eot_id))
    rows, eot = torch.stack(drawn, 1).tolist(), tokenizer.eot_id
    stories = [tokenizer.decode(row[: row.index(eot)] if eot in row else row) for row in rows]
    return stories, sum(eot in row for row in rows) / n


def hardest_words(
    nats: Sequence[torch.Tensor], tokenizer: Tokenizer, stories: Sequence[str], least: int = 5
) -> list[tuple[str, float, int]]:
    """The words that surprise the model most: each with its mean nats, those of its tokens added
    up, and how often it came. Words that came fewer than `least` times are left out."""
    seen = defaultdict(list)
    for losses, story in zip(nats, stories, strict=True):
        pieces = tokenizer.pieces(tokenizer.encode(story))
        words = []
        for piece, loss in zip(pieces, losses.tolist(), strict=False):  # the end has no piece
            if words and piece[0].isalpha() and words[-1][0][-1].isalpha():
                words[-1] = (words[-1][0] + piece, words[-1][1] + loss)  # the word goes on
            else:
                words.append((piece, loss))
        for word, loss in words:
            seen[word.strip()].append(loss)
    words = [(word, float(np.mean(x)), len(x)) for word, x in seen.items() if len(x) >= least]
    return sorted((word for word in words if word[0].isalpha()), key=lambda word: -word[1])


def story_report(
    model: Transformer,
    tokenizer: Tokenizer,
    stories: Stories | None = None,
    *,
    name: str = "this model",
    file: str | Path = "story_report.html",
    samples: int = 100,
    evaluation_stories: int = 300,
    seed: int = 0,
) -> Path:
    """Write one HTML page about a model, whole in itself, and give its path.

    It has the score on validation stories beside those of counting models, the loss by position,
    the hardest words, how often `samples` stories at temperature 0.8 stop, repeat themselves and
    copy the training text, and a story for each of `slm.OPENINGS`, what is copied in it marked.
    `stories` are those it was trained on and those to measure by (default: `slm.load_stories()`).
    Raises ValueError where model and tokenizer do not fit."""
    model.check_tokenizer(tokenizer)
    stories = stories or load_stories()
    held_out = stories.validation[:evaluation_stories]
    nats = token_nats(model, tokenizer, held_out)
    scores = {name: summarize(nats, held_out)}
    for n, kind in ((3, "trigram"), (2, "bigram")):
        scores[f"{kind}: counting"] = NGram(stories.train, tokenizer, n).evaluate(held_out)
    settings = {"temperature": 0.8, "max_new_tokens": 400, "seed": seed}
    written, stopped = write_many(model, tokenizer, samples, **settings)
    probes = [generate(model, tokenizer, opening.text, **settings) for opening in OPENINGS]

    real = stories.validation[:samples]
    copies = longest_copies([*written, *real, *probes], stories.train)
    ours, theirs = copies[: len(written)], copies[len(written) : len(written) + len(real)]
    marked = copies[len(written) + len(real) :]
    page = [f"<h1>Story report: {escape(name)}</h1>", _facts(model, stories)]
    page += ["<h2>Is it good?</h2>", _scores(scores, len(held_out), stories.source)]
    page += ["<h2>Which words are hard?</h2>", _words(hardest_words(nats, tokenizer, held_out))]
    page += ["<h2>Does it repeat itself, does it copy?</h2>"]
    page += [_originality(written, real, ours, theirs, stopped)]
    page += ["<h2>What does it write?</h2>"]
    told = "One story for each beginning, at temperature 0.8, not selected. Marked is the longest"
    page += [f"<p class=notice>{told} run of words that stands in the training stories.</p>"]
    for probe, group in groupby(zip(OPENINGS, probes, marked, strict=True), lambda x: x[0].probe):
        group = list(group)
        page += [f"<h3>{escape(probe.capitalize())}</h3>"]
        page += [f"<p class=notice>{escape(group[0][0].notice)}</p>"]
        page += [_story(opening.text, text, copy) for opening, text, copy in group]
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    head += f"<title>Story report: {escape(name)}</title><style>{STYLE}</style>"
    html = f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(page)}</body></html>"
    write(file := Path(file), html.encode("utf-8", "replace"))
    return file


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table><tr>{head}</tr><tr>{'</tr><tr>'.join(body)}</tr></table>"


def _figure(figure: "Figure", caption: str) -> str:
    figure.savefig(picture := BytesIO(), format="png", dpi=160)
    image = f"data:image/png;base64,{b64encode(picture.getvalue()).decode()}"
    words = escape(caption)
    return f"<figure><img src='{image}' alt='{words}'><figcaption>{words}</figcaption></figure>"


def _facts(model: Transformer, stories: Stories) -> str:
    config, size = model.config, sum(weight.numel() for weight in model.parameters())
    shape = f"{size:,} parameters in {config.n_layers} layers of width {config.d_model}"
    reach = f"{config.vocab_size:,} tokens, of which it looks back on {config.context_length}"
    return (
        f"<p class=facts>{shape}; a vocabulary of {reach}. Stories: {escape(stories.source)}.</p>"
    )


def _scores(scores: dict[str, Evaluation], count: int, source: str) -> str:
    from slm import plots

    rows = [
        (name, f"{x.bits_per_byte:.3f}", f"{x.nats_per_token:.3f}", f"{x.perplexity:.1f}")
        for name, x in scores.items()
    ]
    table = _table(("", "bits per byte", "nats per token", "perplexity"), rows)
    bits = {name: score.bits_per_byte for name, score in scores.items()}
    ours = next(iter(scores.values()))
    told = f"{count:,} validation stories of {source}, {ours.tokens:,} tokens. Lower is better."
    means, counts = map(np.array, (ours.nats_by_position, ours.stories_by_position))
    enough = counts >= max(count // 20, 1)
    place = plots.loss_by_position(means[enough], counts[enough])
    caption = "Loss by place in the story: context helps."
    return table + _figure(plots.scores(bits), told) + _figure(place, caption)


def _words(words: list[tuple[str, float, int]]) -> str:
    if not words:
        return "<p>No word came often enough.</p>"
    rows = [(word, f"{nats:.1f}", f"{np.exp(-nats):.2%}", f"{n}") for word, nats, n in words[:12]]
    header = ("word", "nats", "chance it had", "times")
    return _table(header, rows)


def _originality(
    written: list[str], real: list[str], ours: list, theirs: list, stopped: float
) -> str:
    def column(stories: list[str], copies: list, ended: str) -> list[str]:
        lengths = [copy.words for copy in copies]
        large = np.mean([copy.large for copy in copies])
        return [
            ended,
            f"{distinct(stories):.1%}",
            f"{repetition(stories):.1%}",
            f"{np.median(lengths):.0f} words",
            f"{max(lengths)} words",
            f"{large:.1%}",
        ]

    names = (
        "stop by themselves within 400 tokens",
        "different runs of 3 words",
        "runs of 4 words said before in the story",
        "longest run that stands in the training stories, median",
        "... and the longest of all",
        "more than half copied in one run",
    )
    both = zip(names, column(written, ours, f"{stopped:.0%}"), column(real, theirs, "-"))
    header = (f"of {len(written)} stories", "written", f"real ones ({len(real)})")
    return _table(header, both)


def _story(opening: str, text: str, copy: Copy) -> str:
    """A story in HTML: its opening in bold, and the longest run that was copied marked."""
    spans = [match.span() for match in re.finditer(r"\S+", text)][copy.start :][: copy.words]
    start, end = (spans[0][0], spans[-1][1]) if spans else (0, 0)
    borders = sorted({0, start, end, min(len(opening), len(text)), len(text)})
    parts = []
    for a, b in pairwise(borders):
        part = escape(text[a:b])
        part = f"<mark>{part}</mark>" if start <= a < end else part
        parts.append(f"<b>{part}</b>" if a < len(opening) else part)
    return f"<blockquote>{''.join(parts)}</blockquote>"
