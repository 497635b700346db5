"""How a story begins: ideas, the prompt and, beside it, the button that writes."""

import streamlit as st

from slm.page.writing_job import WritingJob

IDEAS = (
    "Once upon a time, there was a little",
    "One day, a small robot found",
    "The dragon was afraid of",
    "Lily and her cat went to the",
    '"Where is my hat?" asked the',
)


def prompt_row(key: str, label: str, running: WritingJob | None) -> bool:
    """How a story begins and, beside it, the button to write it, or to stop what is written.

    Returns whether a story is to be written now.
    """
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
            if running is None:
                return st.form_submit_button(label, type="primary")
            st.form_submit_button("Stop", on_click=running.stop)
            return False


@st.dialog("How does it begin?")
def _offer_ideas(key: str) -> None:
    """Let an idea be the prompt, which can be changed then."""
    for idea in IDEAS:
        if st.button(idea, width="stretch", on_click=_take_idea, args=(key, idea)):
            st.rerun()  # which closes the dialog


def _take_idea(key: str, idea: str) -> None:
    st.session_state[key] = idea
