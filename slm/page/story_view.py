"""A story on the page, with words that can be clicked to see why they came.

It is a small component with HTML, CSS and JavaScript of its own, which lie beside this file. All
that it needs it gets at once, so that a click is answered in the browser.
"""

from functools import cache
from pathlib import Path

import streamlit as st

from slm.page.explanation import Explanation
from slm.page.jobs import StoryJob

HTML = '<div class="view"></div>'
_FOLDER = Path(__file__).parent


@cache
def _component():
    """Streamlit's component, registered once."""
    css = (_FOLDER / "story_view.css").read_text(encoding="utf-8")
    js = (_FOLDER / "story_view.js").read_text(encoding="utf-8")
    return st.components.v2.component("slm_story", html=HTML, css=css, js=js)


def story_view(job: StoryJob, number: int, key: str) -> None:
    """Show a story of a job: as far as it is written, and then with words to click."""
    text = job.texts[number] or job.prompt
    explanation = job.explanations[number] if job.explanations else None
    _component()(key=key, data=view_data(text, job.prompt, explanation, job.is_running))


def view_data(text: str, prompt: str, explanation: Explanation | None, is_running: bool) -> dict:
    """What the component is given."""
    given = len(prompt) if text.startswith(prompt) else 0
    data = {"text": text, "given": given, "running": is_running, "tokens": [], "rest": ""}
    if explanation is None:
        return data
    data["running"] = False  # the thread may need a moment more, but the story is finished
    tokens = [
        {
            "text": token.text,
            "chance": round(token.chance, 3),
            "sentence": token.sentence,
            "alternatives": [
                [alternative.name, round(alternative.chance, 4), alternative.came]
                for alternative in token.alternatives
            ],
            "listened": [[place, round(share, 2)] for place, share in token.listened_to],
        }
        for token in explanation.tokens
    ]
    return data | {"tokens": tokens, "rest": explanation.rest}
