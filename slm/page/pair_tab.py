"""The second tab: two stories from one beginning, each with settings of its own."""

import streamlit as st

from slm.page.models import LoadedModel
from slm.page.prompt_row import prompt_row
from slm.page.sampling_controls import chosen_settings, draw_controls
from slm.page.save_buttons import save_text_button
from slm.page.saved_state import SavedPage
from slm.page.story_view import show_stories, written_by
from slm.page.writing_job import WritingJob

SIDES = ("left", "right")


def pair_tab(chosen: LoadedModel, saved: SavedPage) -> bool:
    """Write two stories side by side; on a phone one lies below the other. Whether they were begun
    in this run."""
    job = saved.pair
    is_running = job is not None and job.is_running
    begins = prompt_row("prompt-two", "Write both", job if is_running else None)
    if begins:
        settings = [chosen_settings(side) for side in SIDES]
        saved.pair = WritingJob(chosen, st.session_state["prompt-two"].rstrip(), settings)
        saved.pair.start()
    elif job is None:
        st.caption("Two stories will appear here. First give them different settings below.")
    else:
        show_stories(job, is_running, [f"story-{side}" for side in SIDES])
    if job is not None and not (begins or is_running):
        st.caption(written_by(job, chosen))
        for number, (side, column) in enumerate(zip(SIDES, st.columns(2))):
            with column:
                save_text_button(job, number, f"save-{side}", f"Save the {side} story as text")
    for side, column in zip(SIDES, st.columns(2)):
        with column, st.expander(f"Settings of the {side} story"):
            draw_controls(side)
    return begins
