"""The first tab: one story."""

from io import BytesIO

import streamlit as st

from slm import plots
from slm.page.desk import Desk
from slm.page.dials import dial_settings
from slm.page.jobs import StoryJob
from slm.page.models import Writer
from slm.page.prompt_row import prompt_row
from slm.page.story_view import show_stories, written_by


def write_tab(writer: Writer, desk: Desk) -> bool:
    """Write one story, explain its words, and save it. Whether one was begun in this run."""
    job = desk.story
    is_running = job is not None and job.is_running
    begins = prompt_row("prompt", "Write", job if is_running else None)
    if begins:
        desk.story = StoryJob(writer, st.session_state["prompt"], [dial_settings("one")])
        desk.story.start()
    elif job is None:
        st.caption("The story will appear here. Dials and models are in the side bar (»).")
    else:
        show_stories(job, is_running, ["story"])
    if job is not None and not (begins or is_running):
        st.caption(written_by(job, writer))
        _save_buttons(job)
    return begins


def _save_buttons(job: StoryJob) -> None:
    """Buttons to save a story."""
    text = job.texts[0]
    left, right = st.columns(2)
    left.download_button(
        "Save as text", text.encode(), "story.txt", width="stretch", on_click="ignore"
    )
    tokens = job.explanations[0].tokens if job.explanations else []
    if tokens:
        texts = tuple(token.text for token in tokens)
        image = _picture(texts, tuple(token.chance for token in tokens))
        right.download_button(
            "Save as picture", image, "story.png", width="stretch", on_click="ignore"
        )


@st.cache_data(max_entries=20, show_spinner=False)
def _picture(texts: tuple[str, ...], chances: tuple[float, ...]) -> bytes:
    """A picture of a story whose words are the darker, the surer the model was."""
    image = BytesIO()
    plots.confidence(texts, chances).savefig(image, format="png")
    return image.getvalue()
