"""The third tab: fine-tuning on one's own stories."""

from pathlib import Path

import streamlit as st

from slm.checkpoint.replacing import check_replaceable
from slm.page.markdown import literal
from slm.page.models import RUNS, LoadedModel
from slm.page.saved_state import FineTuningSlot
from slm.page.tuning_job import TuningJob
from slm.stories.files import KINDS, parse_stories, read_stories
from slm.utils.folder_marker import FINE_TUNED, folder_kind

REDRAW_SECONDS = 1.0
SAMPLE_TITLES = ("Before your stories", "After your stories")


def tune_tab(chosen: LoadedModel, slot: FineTuningSlot) -> bool:
    """Fine-tune the chosen model on stories that are pasted or uploaded. Whether that was begun in
    this run."""
    is_busy = slot.is_busy
    st.write(
        "Give it stories of your own: at least two, better ten or more. They stay on this computer."
    )
    texts = _own_texts()
    name = st.text_input("Name of the new model", "mine", key="name", max_chars=40).strip()
    if is_busy:
        st.fragment(_draw_progress, run_every=REDRAW_SECONDS)(slot.job)
        return False
    # No callbacks: what they are given is of the run before, when a file may not have been there.
    agreed = False
    if st.button("Teach it", type="primary", key="teach"):
        agreed = _is_agreed(name, chosen, texts)
    if st.session_state.get("asked") == name:
        agreed = _ask(name)
    if agreed and _begin(chosen, slot, texts, name):
        return True
    if st.session_state.get("refused"):
        st.error(literal(st.session_state["refused"]))
    elif slot.job is not None:
        _draw_result(slot.job)
    return False


def _own_texts() -> list[str]:
    """Let stories be given; their texts. What was read of each file is said below it."""
    pasted = st.text_area("Paste them, with two blank lines between stories", key="pasted")
    kinds = [kind.removeprefix(".") for kind in KINDS]
    files = st.file_uploader("or upload files", kinds, accept_multiple_files=True, key="files")
    texts = [text for text in pasted.replace("\r", "").split("\n\n\n") if text.strip()]
    names_before = []
    for file in files or []:
        names_before.append(file.name)
        again = names_before.count(file.name)
        name = file.name if again == 1 else f"{file.name} (number {again} of this name)"
        try:
            stories = _parse(file.name, file.getvalue())
        except ValueError as error:
            st.error(literal(str(error).replace(file.name, name)))
            continue
        st.caption(f"{literal(name)}: {_count(stories)}")
        texts += stories
    if st.checkbox("or try it with the tales of a lighthouse robot", key="tales"):
        texts += read_stories("lighthouse")
    return texts


@st.cache_data(max_entries=50, show_spinner=False)
def _parse(name: str, content: bytes) -> list[str]:
    """The stories of an uploaded file. Raises ValueError, naming the file."""
    return parse_stories(name, content)


def _count(stories: list[str]) -> str:
    count = len([story for story in stories if story.strip()])
    return f"{count:,} {'story' if count == 1 else 'stories'}"


def _is_agreed(name: str, chosen: LoadedModel, texts: list[str]) -> bool:
    """Whether fine-tuning may begin without a question; if not, say why, or ask."""
    state = st.session_state
    state["asked"] = None
    state["refused"] = _problem(name, chosen, texts)
    if state["refused"]:
        return False
    has_model = (RUNS / name / "config.json").exists()
    state["asked"] = name if has_model else None
    return not has_model


def _problem(name: str, chosen: LoadedModel, texts: list[str]) -> str:
    """Why fine-tuning cannot begin; nothing where it can."""
    if not texts:
        return "Give it some stories first."
    if not name.replace("-", "").replace("_", "").isalnum():
        return "Give it a name of letters, digits, - and _."
    folder = RUNS / name
    if folder.exists() and not folder.is_dir():
        return f"{folder.as_posix()} is a file: choose another name."
    if not folder.exists() or not any(folder.iterdir()):
        return ""
    kind = folder_kind(folder)
    if kind != FINE_TUNED:
        content = f"a {kind}" if kind else "something else"
        return f"{folder.as_posix()} holds {content}: choose another name."
    try:
        check_replaceable(folder, chosen.model, chosen.tokenizer)
    except ValueError as error:
        return str(error)
    return ""


def _begin(chosen: LoadedModel, slot: FineTuningSlot, texts: list[str], name: str) -> bool:
    """Begin to fine-tune; whether that could be."""
    st.session_state["asked"] = None
    if slot.start(TuningJob(chosen, texts, RUNS / name)):
        return True
    st.session_state["refused"] = "Another page is already fine-tuning a model: please wait."
    return False


def _ask(name: str) -> bool:
    """Ask whether a model that is there may be replaced; whether the answer is yes."""
    st.warning(f"There is a model {(RUNS / name).as_posix()} already. Replace it?")
    row = st.container(horizontal=True)
    agreed = row.button("Replace it", key="replace")
    row.button("Leave it", key="leave", on_click=_forget_question)
    return agreed


def _forget_question() -> None:
    st.session_state["asked"] = None


def _draw_progress(job: TuningJob) -> None:
    """How far it is, drawn again every second; and a button to stop."""
    if not job.is_running:
        st.rerun()
    share = job.progress.share if job.progress else 0.0
    st.progress(share, progress_sentence(job))
    st.button("Stop", key="stop-tuning", on_click=job.stop, disabled=job.is_stopping)
    if job.is_practice:
        _say_practice()


def progress_sentence(job: TuningJob) -> str:
    """Where fine-tuning is, in a line."""
    name = literal(job.folder.as_posix())
    if job.is_stopping:
        return f"{name}: stopping, and saving the best so far ..."
    progress = job.progress
    if progress is None:
        return f"{name}: getting ready ..."
    if progress.share >= 1:
        return f"{name}: measuring and saving ..."
    parts = [f"{name}: reading your stories, round {len(progress.scores) + 1}"]
    if progress.scores:
        parts.append(f"loss on the ones held out {progress.scores[-1]:.2f} (less is better)")
    if progress.seconds_left is not None:
        parts.append(f"at most {duration(progress.seconds_left)} left")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """A time in words, roughly."""
    if seconds < 90:
        return "a minute"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} minutes"
    return f"{round(minutes / 60)} hours"


def _say_practice() -> None:
    st.warning(
        "TinyStories could not be fetched: simple stories made up for practice stand in for them. "
        "They keep the model from forgetting what it knew."
    )


def _draw_result(job: TuningJob) -> None:
    """What came of it."""
    folder = job.folder
    if job.error:
        st.error(literal(job.error))
        return
    if job.was_cancelled:
        st.info("Stopped before the first round ended: nothing was saved.")
        return
    before = job.result.before["yours"].bits_per_byte
    after = job.result.after["yours"].bits_per_byte
    change = f"from {before:.2f} to {after:.2f} bits per byte on the stories held out"
    if after < before:
        place = literal(folder.as_posix())
        st.success(f"It has learnt from your stories: {change} (less is better). It is in {place}.")
    else:
        st.info("No round was better on the stories held out: the model is as it was.")
    if job.is_practice:
        _say_practice()
    if job.result.folder is None:
        st.error(f"It could not be saved in {folder.as_posix()}; the terminal says why.")
        return
    st.button("Write with it", key="use", on_click=_use, args=(folder,))
    if st.session_state["model"] == folder.as_posix():
        st.info(f"{literal(folder.as_posix())} is chosen: go to the tab Write, and begin a story.")
    _draw_samples(job.result.samples[:2])


def _draw_samples(samples: list[tuple[str, str]]) -> None:
    """Stories before and after, side by side."""
    for sample in samples:
        for title, story, column in zip(SAMPLE_TITLES, sample, st.columns(2)):
            column.caption(title)
            column.text(story)


def _use(folder: Path) -> None:
    """Choose the new model on the page."""
    st.session_state["model"] = folder.as_posix()
