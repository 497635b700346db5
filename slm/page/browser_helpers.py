"""Two small things that Streamlit itself cannot do, by a few lines of JavaScript each. They have
nothing to see."""

from functools import cache
from pathlib import Path

import streamlit as st


def commit_on_paste(label: str) -> None:
    """Hand on what was pasted into a text box at once, and not only when the box is left."""
    _component("commit_on_paste")(key="commit-on-paste", data={"label": label})


def open_first_tab(times: int) -> None:
    """Open the first tab whenever `times`, which counts how often that was asked for, has grown."""
    _component("open_first_tab")(key="open-first-tab", data={"times": times})


@cache
def _component(name: str):
    """Streamlit's component, registered once."""
    js = Path(__file__).with_name(f"{name}.js").read_text(encoding="utf-8")
    return st.components.v2.component(f"slm_{name}", html="", js=js)
