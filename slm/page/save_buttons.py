"""Buttons that save a story as a file, on the computer or phone that shows the page."""

from io import BytesIO
from pathlib import PurePosixPath

import streamlit as st

from slm import plots
from slm.page.models import BUNDLED
from slm.page.writing_job import WritingJob


def save_text_button(job: WritingJob, number: int, key: str, label: str) -> None:
    """A button that saves one of a job's stories as text."""
    st.download_button(
        label,
        f"{job.texts[number]}\n".encode(),
        file_name(job, number, "txt"),
        key=key,
        width="stretch",
        on_click="ignore",
    )


def save_picture_button(job: WritingJob) -> None:
    """A button that saves the first story as a picture, if its words could be explained."""
    tokens = job.explanations[0].tokens if job.explanations else []
    if not tokens:
        return
    texts = tuple(token.text for token in tokens)
    st.download_button(
        "Save as picture",
        _picture(texts, tuple(token.chance for token in tokens)),
        file_name(job, 0, "png"),
        key="save-picture",
        width="stretch",
        on_click="ignore",
    )


def file_name(job: WritingJob, number: int, ending: str) -> str:
    """A name that says which model wrote a story, and with which seed."""
    model = "bundled-model" if job.model_name == BUNDLED else PurePosixPath(job.model_name).name
    return f"story-by-{model}-seed-{job.seeds[number]}.{ending}"


@st.cache_data(max_entries=20, show_spinner=False)
def _picture(texts: tuple[str, ...], chances: tuple[float, ...]) -> bytes:
    """A picture of a story whose words are the darker, the surer the model was."""
    image = BytesIO()
    plots.confidence(texts, chances).savefig(image, format="png")
    return image.getvalue()
