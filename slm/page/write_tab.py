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
    row.selectbox(
        "Ideas",
        IDEAS,
        index=None,
        placeholder="Ideas",
        key=f"{key}-idea",
        on_change=_take_idea,
        args=(key,),
        label_visibility="collapsed",
        width=150,
    )
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


def _take_idea(key: str) -> None:
    """Let an idea be the prompt; it can then be changed, and taken again."""
    state = st.session_state
    state[key] = state[f"{key}-idea"] or state[key]
    state[f"{key}-idea"] = None


def begin_story(writer: Writer, desk: Desk) -> None:
    """Begin to write, as the prompt and the dials say."""
    desk.story = StoryJob(writer, st.session_state["prompt"], [dial_settings("one")])
    desk.story.start()


def _draw_story(job: StoryJob | None, was_running: bool) -> None:
    """The story, drawn again and again while it is written."""
    if job is None:
        st.caption("The story will appear here.")
        return
    story_view(job, 0, key="story")
    finish_drawing(job, was_running)


def finish_drawing(job: StoryJob, was_running: bool) -> None:
    """Say what failed; and once a story is finished, draw the whole page anew."""
    if was_running and not job.is_running:
        st.rerun()
    if job.error:
        st.error(job.error)


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
