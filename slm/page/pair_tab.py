"""The second tab: two stories from one beginning, each with dials of its own."""

import streamlit as st

from slm.page.desk import Desk
from slm.page.dials import dial_settings, dials
from slm.page.jobs import StoryJob
from slm.page.models import Writer
from slm.page.story_view import story_view
from slm.page.write_tab import REDRAW_SECONDS, draw_page_when_finished, prompt_row, written_by

SIDES = ("left", "right")


def pair_tab(writer: Writer, desk: Desk) -> None:
    """Write two stories side by side; on a phone one lies below the other."""
    job = desk.pair
    is_running = job is not None and job.is_running
    running = job if is_running else None
    prompt_row("prompt-two", "Write both", running, begin_pair, (writer, desk))
    st.fragment(_draw_pair, run_every=REDRAW_SECONDS if is_running else None)(job, is_running)
    if job is not None and not is_running:
        st.caption(written_by(job, writer))
    for side, column in zip(SIDES, st.columns(2)):
        with column, st.expander(f"Dials of the {side} story"):
            dials(side)


def begin_pair(writer: Writer, desk: Desk) -> None:
    """Begin to write both."""
    settings = [dial_settings(side) for side in SIDES]
    desk.pair = StoryJob(writer, st.session_state["prompt-two"], settings)
    desk.pair.start()


def _draw_pair(job: StoryJob | None, was_running: bool) -> None:
    """Both stories, drawn again and again while they are written."""
    if job is None:
        st.caption("Two stories will appear here. Turn their dials apart first, below.")
        return
    draw_page_when_finished(job, was_running)
    for number, column in enumerate(st.columns(2)):
        with column:
            story_view(job, number, key=f"story-{SIDES[number]}")
    if job.error:
        st.error(job.error)
