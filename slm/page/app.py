"""The page: `python -m slm app` opens it. Streamlit runs this file anew, from top to bottom,
whenever something on the page is touched."""

import streamlit as st

from slm.page.browser_helpers import commit_on_paste, open_first_tab
from slm.page.models import BUNDLED, choose_model
from slm.page.pair_tab import SIDES, pair_tab
from slm.page.prompt_row import IDEAS
from slm.page.sampling_controls import DEFAULTS, draw_controls
from slm.page.saved_state import fine_tuning_slot, saved_page
from slm.page.stories_input import BOX
from slm.page.tune_tab import REDRAW_SECONDS, progress_sentence, tune_tab
from slm.page.tuning_job import TuningJob
from slm.page.write_tab import ONE, write_tab

TABS = ("Write", "Two stories", "Make it yours")

# Streamlit leaves much room above a page, which a phone has not; and its bar at the top must not
# cover what the keyboard goes to.
# The line about a model being fine-tuned is left out where the third tab shows the same and more.
STYLE = """<style>
.stMainBlockContainer { padding: 3.25rem 1rem 3rem; }
.stMain { scroll-padding-top: 4rem; scrollbar-gutter: stable; }
.stApp:has([role=tab]:nth-of-type(3)[aria-selected=true]) .st-key-tuning-line { display: none; }
</style>"""


def main() -> None:
    """The whole page."""
    st.set_page_config("Stories", "📖", layout="centered")
    st.html(STYLE)
    saved = saved_page()
    saved.restore_inputs(_input_defaults())
    st.session_state.setdefault("first-tab-opened", 0)
    st.markdown("##### A small language model tells stories")
    with st.sidebar:
        slot = fine_tuning_slot()
        chosen = choose_model(unfinished=slot.job.folder if slot.is_busy else None)
        draw_controls(ONE)
    # A container even where it stays empty: else the tabs would move, and the first one be chosen.
    with st.container(key="tuning-line"):
        if fine_tuning_slot().is_busy:
            st.fragment(_draw_tuning, run_every=REDRAW_SECONDS)(fine_tuning_slot().job)
    write, pair, tune = st.tabs(TABS)
    with write:
        story_begins = write_tab(chosen, saved)
    with pair:
        pair_begins = pair_tab(chosen, saved)
    with tune:
        tuning_begins = tune_tab(chosen, fine_tuning_slot())
    commit_on_paste(BOX)
    open_first_tab(st.session_state["first-tab-opened"])
    # Only here: older versions of Streamlit forget what is further down where a run ends early.
    if story_begins or pair_begins or tuning_begins:
        st.rerun()


def _input_defaults() -> dict[str, object]:
    """What a new page shows in each widget that is remembered, by the widget's key."""
    defaults = {
        "model": BUNDLED,
        "prompt": IDEAS[0],
        "prompt-two": IDEAS[0],
        "pasted": "",
        "tales": False,
        "name": "mine",
    }
    for story in (ONE, *SIDES):
        for name, value in DEFAULTS.items():
            defaults[f"{story}-{name}"] = value
    return defaults


def _draw_tuning(job: TuningJob) -> None:
    """A line above all tabs while a model is fine-tuned."""
    st.caption(progress_sentence(job))


if __name__ == "__main__":
    main()
