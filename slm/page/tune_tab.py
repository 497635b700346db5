"""The third tab: fine-tuning on one's own stories."""

from pathlib import Path

import streamlit as st

from slm.checkpoint.replacing import check_replaceable
from slm.page.markdown import literal
from slm.page.models import RUNS, LoadedModel
from slm.page.saved_state import FineTuningSlot
from slm.page.stories_input import stories_input
from slm.page.tuning_job import Sample, TuningJob
from slm.stories.cleaning import SHORTEST, clean_stories
from slm.utils.folder_marker import FINE_TUNED, folder_kind

FEWEST = 2  # stories: one is kept aside to measure by
REDRAW_SECONDS = 1.0


def tune_tab(chosen: LoadedModel, slot: FineTuningSlot) -> bool:
    """Fine-tune the chosen model on stories that are pasted or uploaded. Whether that was begun in
    this run."""
    st.write(
        "Give it stories of your own: at least two, better ten or more. They stay on this computer."
    )
    stories = stories_input()
    name = st.text_input("Name of the new model", key="name", max_chars=40).strip()
    st.caption(
        f"It begins as a copy of {literal(chosen.name)}, and is saved in {literal(_place(name))}."
    )
    if slot.is_busy:
        st.fragment(_draw_progress, run_every=REDRAW_SECONDS)(slot.job)
        return False
    # No callbacks: what they are given is of the run before, when a file may not have been there.
    if st.button("Teach it", type="primary", key="teach"):
        return _begin_or_ask(chosen, slot, stories, name)
    if st.session_state.get("asked") == name:
        return _ask(name) and _begin(chosen, slot, stories, name)
    if slot.job is not None and slot.job is not st.session_state.get("hidden-job"):
        _draw_result(slot.job)
    return False


def _place(name: str) -> str:
    """The folder of a model, as it is shown."""
    return (RUNS / name).as_posix()


def _begin_or_ask(chosen: LoadedModel, slot: FineTuningSlot, stories: list[str], name: str) -> bool:
    """Begin to fine-tune, say why that cannot be, or ask whether a model may be replaced. Whether
    it was begun."""
    state = st.session_state
    state["asked"] = None
    state["hidden-job"] = slot.job  # the result of the time before is over
    problem = _problem(name, chosen, stories)
    if problem:
        st.error(literal(problem))
        return False
    if not (RUNS / name / "config.json").exists():
        return _begin(chosen, slot, stories, name)
    state["asked"] = name
    _ask(name)
    return False


def _problem(name: str, chosen: LoadedModel, stories: list[str]) -> str:
    """Why fine-tuning cannot begin; nothing where it can."""
    if not stories:
        return "Give it some stories first."
    kept, _ = clean_stories(stories, limit=FEWEST)
    if len(kept) < FEWEST:
        return f"Give it at least two different stories, of {SHORTEST} letters or more each."
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


def _begin(chosen: LoadedModel, slot: FineTuningSlot, stories: list[str], name: str) -> bool:
    """Begin to fine-tune; whether that could be."""
    st.session_state["asked"] = None
    if slot.start(TuningJob(chosen, stories, RUNS / name)):
        return True
    st.error("Another page is already fine-tuning a model: please wait until it has finished.")
    return False


def _ask(name: str) -> bool:
    """Ask whether a model that is there may be replaced; whether the answer is yes."""
    st.warning(f"There is a model {_place(name)} already. Replace it?")
    row = st.container(horizontal=True)
    agreed = row.button("Replace it", key="replace")
    row.button("Leave it", key="leave", on_click=_forget_question)
    return agreed


def _forget_question() -> None:
    st.session_state["asked"] = None
    st.session_state["hidden-job"] = None  # the result before is shown again


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
        parts.append(f"surprise at those kept aside {progress.scores[-1]:.2f} (less is better)")
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
    if job.error:
        st.error(literal(job.error))
    if job.error and job.result is None:
        return  # else the model was saved before the error
    if job.was_cancelled:
        st.info("Stopped before the first round ended: nothing was saved.")
        return
    _draw_change(job)
    if job.is_practice:
        _say_practice()
    place = literal(job.folder.as_posix())
    if job.result.folder is None:
        st.error(f"It could not be saved in {place}; the terminal says why.")
        return
    st.button("Write with it", key="use", on_click=_use, args=(job.folder,))
    st.caption(f"It is in {place}. {_measured(job)}")
    _draw_samples(job.samples)


def _draw_change(job: TuningJob) -> None:
    """Whether it has learnt, in plain words."""
    before, after = _surprise(job)
    if after < before:
        st.success(
            "It has learnt. Stories of yours that were kept aside, so that it never read them, "
            f"surprise it {1 - after / before:.0%} less than before."
        )
    else:
        st.info(
            "The stories that were kept aside surprise it no less than before: it stays as it was. "
            "More stories may help."
        )


def _measured(job: TuningJob) -> str:
    """The same in numbers."""
    before, after = _surprise(job)
    return f"The surprise in bits per byte of text: {before:.2f} before, {after:.2f} now."


def _surprise(job: TuningJob) -> tuple[float, float]:
    """The score on the stories that were kept aside, before and after."""
    before = job.result.before["yours"]
    after = job.result.after["yours"]
    return before.bits_per_byte, after.bits_per_byte


def _draw_samples(samples: list[Sample]) -> None:
    """What both models make of the first words of one's stories, side by side."""
    for sample in samples:
        left, right = st.columns(2)
        for column, title, story in (
            (left, "Before your stories", sample.before),
            (right, "After your stories", sample.after),
        ):
            column.caption(title)
            column.text(story)  # as it is: Markdown would make lists of dashes, and join lines


def _use(folder: Path) -> None:
    """Choose the new model on the page, and go to the first tab, where stories are written."""
    st.session_state["model"] = folder.as_posix()
    st.session_state["first-tab-opened"] += 1
