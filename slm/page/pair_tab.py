"""The second tab: two stories from one beginning, each with dials of its own."""

import streamlit as st

from slm.page.desk import Desk
from slm.page.dials import dial_settings, dials
from slm.page.jobs import StoryJob
from slm.page.models import Writer
from slm.page.prompt_row import prompt_row
from slm.page.story_view import show_stories, written_by

SIDES = ("left", "right")


def pair_tab(writer: Writer, desk: Desk) -> bool:
    """Write two stories side by side; on a phone one lies below the other. Whether they were begun
    in this run."""
    job = desk.pair
    is_running = job is not None and job.is_running
    begins = prompt_row("prompt-two", "Write both", job if is_running else None)
    if begins:
        settings = [dial_settings(side) for side in SIDES]
        desk.pair = StoryJob(writer, st.session_state["prompt-two"], settings)
        desk.pair.start()
    elif job is None:
        st.caption("Two stories will appear here. Turn their dials apart first, below.")
    else:
        show_stories(job, is_running, [f"story-{side}" for side in SIDES])
    if job is not None and not (begins or is_running):
        st.caption(written_by(job, writer))
    for side, column in zip(SIDES, st.columns(2)):
        with column, st.expander(f"Dials of the {side} story"):
            dials(side)
    return begins
