"""The page: `python -m slm app` opens it. Streamlit runs this file anew, from top to bottom,
whenever something on the page is touched."""

import streamlit as st

from slm.page.models import BUNDLED, choose_model
from slm.page.pair_tab import pair_tab
from slm.page.prompt_row import IDEAS
from slm.page.sampling_controls import draw_controls
from slm.page.saved_state import SavedPage, fine_tuning_slot, saved_page
from slm.page.tune_tab import REDRAW_SECONDS, progress_sentence, tune_tab
from slm.page.tuning_job import TuningJob
from slm.page.write_tab import write_tab

# Streamlit leaves much room above a page, which a phone has not.
STYLE = """<style>
.stMainBlockContainer { padding: 3.25rem 1rem 3rem; }
</style>"""


def main() -> None:
    """The whole page."""
    st.set_page_config("Stories", "📖", layout="centered")
    st.html(STYLE)
    saved = saved_page()
    _restore(saved)
    st.markdown("##### A small language model tells stories")
    with st.sidebar:
        chosen = choose_model()
        draw_controls("one")
    # A container even where it stays empty: else the tabs would move, and the first one be chosen.
    with st.container():
        if fine_tuning_slot().is_busy:
            st.fragment(_draw_tuning, run_every=REDRAW_SECONDS)(fine_tuning_slot().job)
    write, pair, tune = st.tabs(["Write", "Two stories", "Make it yours"])
    with write:
        story_begins = write_tab(chosen, saved)
    with pair:
        pair_begins = pair_tab(chosen, saved)
    with tune:
        tuning_begins = tune_tab(chosen, fine_tuning_slot())
    # Only here: older versions of Streamlit forget what is further down where a run ends early.
    if story_begins or pair_begins or tuning_begins:
        st.rerun()


def _restore(saved: SavedPage) -> None:
    """Fill in what a page that was reloaded has forgotten."""
    state = st.session_state
    state.setdefault("prompt", saved.story.prompt if saved.story else IDEAS[0])
    state.setdefault("prompt-two", saved.pair.prompt if saved.pair else IDEAS[0])
    state.setdefault("model", saved.story.model_name if saved.story else BUNDLED)


def _draw_tuning(job: TuningJob) -> None:
    """A line above all tabs while a model is fine-tuned."""
    st.caption(progress_sentence(job))


if __name__ == "__main__":
    main()
