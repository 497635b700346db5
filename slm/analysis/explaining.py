"""Why this word? What a model thought of each word of a text, to be shown on a page (optional)."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import torch

from slm.analysis.attention import attention_maps
from slm.model.transformer import Transformer, evaluating
from slm.tokenizer.byte_pair import Tokenizer


@dataclass(frozen=True)
class Word:
    """A token of a text, and what the model thought when it came."""

    piece: str
    probability: float
    likeliest: tuple[tuple[str, float], ...]  # what might have come instead, the likeliest first


def explain(model: Transformer, tokenizer: Tokenizer, text: str, most: int = 8) -> list[Word]:
    """What the model thought of each token of a text, as far as it looks back."""
    ids = [tokenizer.bos_id, *tokenizer.encode(text)][: model.config.context_length + 1]
    if len(ids) < 2:
        return []
    device = model.model.embed_tokens.weight.device
    with evaluating(model):
        logits = model(torch.tensor([ids[:-1]], device=device))[0].float().cpu()
    chances = logits.softmax(-1)  # (T, V)
    values, places = chances.topk(most)
    words = []
    for t, id in enumerate(ids[1:]):
        names = tokenizer.pieces(places[t].tolist())
        top = tuple(zip(names, values[t].tolist(), strict=True))
        words.append(Word(tokenizer.pieces([id])[0], chances[t, id].item(), top))
    return words


def listened_to(model: Transformer, tokenizer: Tokenizer, text: str, place: int) -> list[float]:
    """How much the token at a place, counted from 0, listens to each token up to itself: the mean
    over all heads of all layers. The share of the beginning, where heads rest, is left out."""
    ids = [tokenizer.bos_id, *tokenizer.encode(text)][: model.config.context_length]
    device = model.model.embed_tokens.weight.device
    maps = attention_maps(model, torch.tensor(ids, device=device)).cpu()  # (L, H, T, T)
    row = maps.mean((0, 1))[place + 1, 1 : place + 2]
    return (row / row.sum().clamp(min=1e-9)).tolist()


def coloured(
    pieces: Sequence[str], shares: Sequence[float], rgb: str = "0, 114, 178", chosen: int = -1
) -> str:
    """A text as HTML, each piece the more coloured, the larger its share of 1; all is escaped."""
    parts = []
    for place, (piece, share) in enumerate(zip(pieces, shares, strict=True)):
        shown = escape(piece).replace("\n", "<br>")
        edge = "; outline: 2px solid #D55E00" if place == chosen else ""
        colour = f"background: rgba({rgb}, {min(max(share, 0.0), 1.0) * 0.6:.2f})"
        parts.append(f'<span style="{colour}{edge}" title="{share:.1%}">{shown}</span>')
    return f'<div style="line-height: 1.9; overflow-wrap: anywhere">{"".join(parts)}</div>'


def plain(text: str, prompt: str = "") -> str:
    """A story as HTML, its prompt in bold; all is escaped."""
    own = text.startswith(prompt)
    head, rest = (prompt, text[len(prompt) :]) if own else ("", text)
    shown = f"<b>{escape(head)}</b>{escape(rest)}".replace("\n", "<br>")
    return (
        f'<div style="line-height: 1.7; overflow-wrap: anywhere" aria-live="polite">{shown}</div>'
    )
