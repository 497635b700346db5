"""Texts of others within Streamlit's messages, which are Markdown."""

import re

_SPECIAL = re.compile(r"([\\`*_\[\]<>$~!])")


def literal(text: str) -> str:
    """A text that Markdown shows as it is: a file's name can neither link nor fetch anything."""
    return _SPECIAL.sub(r"\\\1", text)
