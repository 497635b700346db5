"""The first tab: one story."""

import streamlit as st

from slm.page.markdown import literal
from slm.page.models import LoadedModel
from slm.page.prompt_row import prompt_row
from slm.page.sampling_controls import chosen_settings
from slm.page.save_buttons import save_picture_button, save_text_button
from slm.page.saved_state import SavedPage
from slm.page.story_view import show_stories, written_by
from slm.page.writing_job import WritingJob

ONE = "one"  # the key of the sliders for the one story


def write_tab(chosen: LoadedModel, saved: SavedPage) -> bool:
    """Write one story, explain its words, and save it. Whether one was begun in this run."""
    job = saved.story
    is_running = job is not None and job.is_running
    begins = prompt_row("prompt", "Write", job if is_running else None)
    if begins:
        saved.story = WritingJob(
            chosen, st.session_state["prompt"].rstrip(), [chosen_settings(ONE)]
        )
        saved.story.start()
    elif job is None:
        name = literal(chosen.name)
        st.caption(
            f"Here {name} will write. Settings and other models are in the sidebar, which » opens."
        )
    else:
        show_stories(job, is_running, ["story"])
    if job is not None and not (begins or is_running):
        st.caption(written_by(job, chosen))
        left, right = st.columns(2)
        with left:
            save_text_button(job, 0, "save-story", "Save as text")
        with right:
            save_picture_button(job)
    return begins
