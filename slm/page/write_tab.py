"""The first tab: one story."""

from io import BytesIO

import streamlit as st

from slm import plots
from slm.page.jobs import WritingJob
from slm.page.models import LoadedModel
from slm.page.prompt_row import prompt_row
from slm.page.sampling_controls import chosen_settings
from slm.page.saved_state import SavedPage
from slm.page.story_view import show_stories, written_by


def write_tab(chosen: LoadedModel, saved: SavedPage) -> bool:
    """Write one story, explain its words, and save it. Whether one was begun in this run."""
    job = saved.story
    is_running = job is not None and job.is_running
    begins = prompt_row("prompt", "Write", job if is_running else None)
    if begins:
        saved.story = WritingJob(
            chosen, st.session_state["prompt"].rstrip(), [chosen_settings("one")]
        )
        saved.story.start()
    elif job is None:
        st.caption("Your story will appear here. Settings and models are in the sidebar.")
    else:
        show_stories(job, is_running, ["story"])
    if job is not None and not (begins or is_running):
        st.caption(written_by(job, chosen))
        _save_buttons(job)
    return begins


def _save_buttons(job: WritingJob) -> None:
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
