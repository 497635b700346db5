"""What outlives a run of the page's script, and a reload of the page: jobs and their results.

There is one desk for each page that is open, known by an id in its address; fine-tuning is one for
all pages, since a computer can hardly do two at a time.
"""

import secrets
import threading
from dataclasses import dataclass

import streamlit as st

from slm.page.jobs import StoryJob
from slm.page.tuning_job import TuningJob

MOST_DESKS = 100  # those of pages opened longest ago are forgotten


@dataclass
class Desk:
    """The stories of one page: the latest one, and the latest two side by side."""

    story: StoryJob | None = None
    pair: StoryJob | None = None


class Workshop:
    """The place of fine-tuning, where only one model is at a time."""

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
            self.job = job
            job.start()
            return True


@st.cache_resource
def _desks() -> dict[str, Desk]:
    return {}


@st.cache_resource
def workshop() -> Workshop:
    """The one place of fine-tuning."""
    return Workshop()


def this_desk() -> Desk:
    """The desk of this page; the id in its address brings it back after a reload."""
    state = st.session_state
    if "desk" not in state:
        state["desk"] = st.query_params.get("desk") or secrets.token_urlsafe(6)
    desk_id = state["desk"]
    if st.query_params.get("desk") != desk_id:
        st.query_params["desk"] = desk_id
    desks = _desks()
    if desk_id not in desks:
        desks[desk_id] = Desk()
        while len(desks) > MOST_DESKS:
            del desks[next(iter(desks))]
    return desks[desk_id]
