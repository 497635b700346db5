"""A story on the page, with words that can be clicked to see why they came.

It is a small component with HTML, CSS and JavaScript of its own, which lie beside this file. All
that it needs it gets at once, so that a click is answered in the browser.
"""

from functools import cache
from pathlib import Path

import streamlit as st

from slm.page.explanation import Alternative, ExplainedToken, Explanation, percent
from slm.page.markdown import literal
from slm.page.models import LoadedModel
from slm.page.writing_job import WritingJob

REDRAW_SECONDS = 0.2  # while a story is written
HTML = '<div class="view"></div>'
_FOLDER = Path(__file__).parent


@cache
def _component():
    """Streamlit's component, registered once."""
    css = (_FOLDER / "story_view.css").read_text(encoding="utf-8")
    js = (_FOLDER / "story_view.js").read_text(encoding="utf-8")
    return st.components.v2.component("slm_story", html=HTML, css=css, js=js)


def show_stories(job: WritingJob, is_running: bool, keys: list[str]) -> None:
    """Show the stories of a job side by side, drawn again and again while they are written.

    `keys` tell them apart, one for each.
    """
    st.fragment(_draw, run_every=REDRAW_SECONDS if is_running else None)(job, is_running, keys)


def _draw(job: WritingJob, was_running: bool, keys: list[str]) -> None:
    """Draw the stories as they are now; once they are finished, the whole page anew."""
    if was_running and not job.is_running:
        st.rerun()
    for number, (key, column) in enumerate(zip(keys, st.columns(len(keys)))):
        text = job.texts[number] or job.prompt
        explanation = job.explanations[number] if job.explanations else None
        with column:
            _component()(key=key, data=view_data(text, job.prompt, explanation, job.is_running))
            if job.endings[number]:
                st.caption(ending_sentence(job, number))
    if job.error:
        st.error(literal(job.error))


def view_data(text: str, prompt: str, explanation: Explanation | None, is_running: bool) -> dict:
    """What the component is given."""
    given = 0
    if text.startswith(prompt):
        given = len(prompt.encode("utf-16-le")) // 2  # as JavaScript counts: in units of UTF-16
    data = {"text": text, "given": given, "running": is_running, "tokens": [], "rest": ""}
    if explanation is None:
        return data
    data["running"] = False  # the thread may need a moment more, but the story is finished
    data["tokens"] = [_token_data(token) for token in explanation.tokens]
    data["rest"] = explanation.rest
    return data


def _token_data(token: ExplainedToken) -> dict:
    """A token as the component is given it; rounded, since there are hundreds of them."""
    return {
        "text": token.text,
        "chance": round(token.chance, 3),
        "sentence": token.sentence,
        "alternatives": [_alternative_data(alternative) for alternative in token.alternatives],
        "listened": [[place, round(share, 2)] for place, share in token.listened_to],
    }


def _alternative_data(alternative: Alternative) -> list:
    chance = round(alternative.chance, 4)
    return [alternative.name, chance, percent(alternative.chance), alternative.is_actual]


def ending_sentence(job: WritingJob, number: int) -> str:
    """How a story ended, its length, and how it can be written again."""
    words = len(job.texts[number].split())
    count = "1 word" if words == 1 else f"{words:,} words"
    return (
        f"{job.endings[number]} {count}. With the same beginning and settings, "
        f"seed {job.seeds[number]} (under More settings) writes it again."
    )


def written_by(job: WritingJob, chosen: LoadedModel) -> str:
    """Which model has written a story, in a sentence."""
    name = literal(job.model_name)
    if job.model_name != chosen.name:
        return f"Written by {name}. The next one will be by {literal(chosen.name)}."
    if job.model_changed != chosen.changed:
        return f"Written by {name} as it was before: it has been replaced since."
    return f"Written by {name}."
