"""Text as HTML for the page: a story, and words coloured by a number each. All is escaped."""

from collections.abc import Sequence
from html import escape


def coloured(
    pieces: Sequence[str], shares: Sequence[float], rgb: str = "0, 114, 178", chosen: int = -1
) -> str:
    """A text as HTML, each piece the more coloured, the larger its share of 1; all is escaped. The
    piece at the index `chosen` has an outline."""
    spans = []
    for index, (piece, share) in enumerate(zip(pieces, shares, strict=True)):
        opacity = 0.6 * min(max(share, 0.0), 1.0)
        outline = "; outline: 2px solid #D55E00" if index == chosen else ""
        style = f"background: rgba({rgb}, {opacity:.2f}){outline}"
        text = escape(piece).replace("\n", "<br>")
        spans.append(f'<span style="{style}" title="{share:.1%}">{text}</span>')
    return f'<div style="line-height: 1.9; overflow-wrap: anywhere">{"".join(spans)}</div>'


def plain(text: str, prompt: str = "") -> str:
    """A story as HTML, its prompt in bold; all is escaped."""
    if not text.startswith(prompt):
        prompt = ""
    continuation = text[len(prompt) :]
    story = f"<b>{escape(prompt)}</b>{escape(continuation)}".replace("\n", "<br>")
    style = "line-height: 1.7; overflow-wrap: anywhere"
    return f'<div style="{style}" aria-live="polite">{story}</div>'
