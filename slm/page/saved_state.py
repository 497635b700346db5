"""What outlives a run of the page's script, and a reload of the page: jobs and their results, and
what has been entered.

Each page that is open is known by an id in its address: whoever has the address sees its stories,
and can stop them. Fine-tuning is one for all pages, since a computer can hardly do two at a time.
"""

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import streamlit as st

from slm.page.tuning_job import TuningJob
from slm.page.writing_job import WritingJob

MAX_SAVED_PAGES = 100  # the oldest ones are forgotten


@dataclass
class SavedPage:
    """What is saved of one page."""

    story: WritingJob | None = None  # the latest
    pair: WritingJob | None = None  # the latest two side by side
    inputs: dict[str, object] = field(default_factory=dict)  # what was entered, by widget

    def restore_inputs(self, defaults: Mapping[str, object]) -> None:
        """Fill in what a page that was reloaded has forgotten, and note what has been entered.

        Call it before any widget is drawn. `defaults` names the widgets, by their keys, and what
        they show at first.
        """
        state = st.session_state
        for key, default in defaults.items():
            if key not in state:
                state[key] = self.inputs.get(key, default)
            self.inputs[key] = state[key]


class FineTuningSlot:
    """Runs at most one fine-tuning job, for all pages."""

    def __init__(self) -> None:
        self.job: TuningJob | None = None  # the latest
        self._lock = threading.Lock()

    @property
    def is_busy(self) -> bool:
        """Whether a model is being fine-tuned."""
        return self.job is not None and self.job.is_running

    def start(self, job: TuningJob) -> bool:
        """Start a job, unless another is running, which another page may have started."""
        with self._lock:
            if self.is_busy:
                return False
            job.start()
            self.job = job  # only now: a page that sees it takes it for running or done
            return True


@st.cache_resource
def _saved_pages() -> dict[str, SavedPage]:
    return {}


@st.cache_resource
def fine_tuning_slot() -> FineTuningSlot:
    """The one slot of this server."""
    return FineTuningSlot()


def saved_page() -> SavedPage:
    """What is saved of this page; the id in its address brings it back after a reload."""
    state = st.session_state
    if "page" not in state:
        state["page"] = st.query_params.get("page") or secrets.token_urlsafe(6)
    page_id = state["page"]
    if st.query_params.get("page") != page_id:
        st.query_params["page"] = page_id
    pages = _saved_pages()
    if page_id not in pages:
        pages[page_id] = SavedPage()
        while len(pages) > MAX_SAVED_PAGES:
            pages.pop(next(iter(pages)), None)  # another page may have done so
    return pages[page_id]
