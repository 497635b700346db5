"""What outlives a run of the page's script, and a reload of the page: jobs and their results.

Each page that is open is known by an id in its address: whoever has the address sees its stories,
and can stop them. Fine-tuning is one for all pages, since a computer can hardly do two at a time.
"""

import secrets
import threading
from dataclasses import dataclass

import streamlit as st

from slm.page.jobs import WritingJob
from slm.page.tuning_job import TuningJob

MAX_SAVED_PAGES = 100  # the oldest ones are forgotten


@dataclass
class SavedPage:
    """The stories of one page: the latest one, and the latest two side by side."""

    story: WritingJob | None = None
    pair: WritingJob | None = None


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
