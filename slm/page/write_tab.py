"""The first tab: one story."""

from io import BytesIO

import streamlit as st

from slm import plots
from slm.page.desk import Desk
from slm.page.dials import dial_settings
from slm.page.jobs import StoryJob
from slm.page.models import Writer
from slm.page.story_view import story_view

IDEAS = (
    "Once upon a time, there was a little",
    "One day, a small robot found",
    "The dragon was afraid of",
    "Lily and her cat went to the",
    '"Where is my hat?" asked the',
)
REDRAW_SECONDS = 0.2  # while a story is written


def write_tab(writer: Writer, desk: Desk) -> None:
    """Write one story, explain its words, and save it."""
    job = desk.story
    is_running = job is not None and job.is_running
    prompt_row("prompt", "Write", job if is_running else None, begin_story, (writer, desk))
    st.fragment(_draw_story, run_every=REDRAW_SECONDS if is_running else None)(job, is_running)
    if job is not None and not is_running:
        st.caption(written_by(job, writer))
        _save_buttons(job)


def prompt_row(key: str, label: str, running: StoryJob | None, begin, arguments: tuple) -> None:
    """How a story begins and, beside it, the button to write it, or to stop what is written."""
    row = st.container(horizontal=True, vertical_alignment="center")
    row.markdown("How does it begin?")
    if row.button("Ideas", key=f"{key}-ideas"):
        _offer_ideas(key)
    with st.form(f"{key}-form", border=False):
        row = st.container(horizontal=True, vertical_alignment="bottom")
        row.text_area(
            "How does it begin?", key=key, max_chars=2000, height=68, label_visibility="collapsed"
        )
        with row:
            if running is not None:
                st.form_submit_button("Stop", on_click=running.stop)
            else:
                st.form_submit_button(label, type="primary", on_click=begin, args=arguments)


@st.dialog("How does it begin?")
def _offer_ideas(key: str) -> None:
    """Let an idea be the prompt, which can be changed then."""
    for idea in IDEAS:
        if st.button(idea, width="stretch", on_click=_take_idea, args=(key, idea)):
            st.rerun()  # which closes the dialog


def _take_idea(key: str, idea: str) -> None:
    st.session_state[key] = idea


def begin_story(writer: Writer, desk: Desk) -> None:
    """Begin to write, as the prompt and the dials say."""
    desk.story = StoryJob(writer, st.session_state["prompt"], [dial_settings("one")])
    desk.story.start()


def _draw_story(job: StoryJob | None, was_running: bool) -> None:
    """The story, drawn again and again while it is written."""
    if job is None:
        st.caption("The story will appear here. Dials and models are in the side bar (»).")
        return
    draw_page_when_finished(job, was_running)
    story_view(job, 0, key="story")
    if job.error:
        st.error(job.error)


def draw_page_when_finished(job: StoryJob, was_running: bool) -> None:
    """Draw the whole page anew, and not the story alone, once it is finished."""
    if was_running and not job.is_running:
        st.rerun()


def written_by(job: StoryJob, chosen: Writer) -> str:
    """Which model has written a story, in a sentence."""
    if job.writer_name != chosen.name:
        return f"Written by {job.writer_name}, not by the model that is chosen now."
    if job.writer_changed != chosen.changed:
        return f"Written by {job.writer_name} as it was before: it has been replaced since."
    return f"Written by {job.writer_name}."


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
