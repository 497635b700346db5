"""Sliders for how a story is written, in plain words."""

import secrets

import streamlit as st

MAX_SEED = 2**31
DRAWN_SEEDS = 100_000  # few enough for a seed that can be read out and typed again

# What a slider shows before it is moved. Each is known by this name, after the key of its story.
DEFAULTS = {"temperature": 0.8, "length": 200, "top_p": 1.0, "penalty": 1.0, "seed": None}


def draw_controls(key: str) -> None:
    """Draw the sliders of one story; `key` tells those of several stories apart. What they are set
    to at first is up to the caller."""
    meaning = "0: always the likeliest word. Around 0.8: lively. Above 1.2: wild."
    st.slider(
        "Temperature (how daring)", 0.0, 2.0, step=0.05, key=f"{key}-temperature", help=meaning
    )
    meaning = "The story may end by itself before that. A token is a short word or a part of one."
    st.slider("Length, in tokens", 20, 400, step=10, key=f"{key}-length", help=meaning)
    with st.expander("More settings"):
        meaning = "0.9: the least likely words, which share a tenth of all chances, are left out."
        label = "Only likely words (top-p)"
        st.slider(label, 0.05, 1.0, step=0.05, key=f"{key}-top_p", help=meaning)
        meaning = "Above 1, words that have come before become less likely."
        st.slider("Avoid repeating", 1.0, 2.0, step=0.05, key=f"{key}-penalty", help=meaning)
        _draw_seed(key)


def _draw_seed(key: str) -> None:
    """The field for the seed, with a sentence below it where its number had to be changed."""
    st.number_input(
        "Seed",
        value=None,
        step=1,  # makes it one for whole numbers
        key=f"{key}-seed",
        placeholder="another each time",
        help="The same number writes the same story again. Empty: another each time.",
        on_change=_clamp_seed,
        args=(key,),
    )
    note = st.session_state.get(f"{key}-seed-note")
    if note:
        st.caption(note)


def _clamp_seed(key: str) -> None:
    """Make a seed that was just entered one that there can be, and note it where it was not."""
    state = st.session_state
    entered = state[f"{key}-seed"]
    state[f"{key}-seed-note"] = ""
    if entered is None:
        return
    seed = min(max(entered, 0), MAX_SEED)
    if seed != entered:
        state[f"{key}-seed"] = seed
        state[f"{key}-seed-note"] = f"Seeds go from 0 to {MAX_SEED:,}: the nearest one is taken."


def chosen_settings(key: str) -> dict:
    """What the sliders are set to at this moment, as fields of `SamplingConfig`. Where there is no
    seed one is drawn, so that the story can be written again."""
    state = st.session_state
    seed = state[f"{key}-seed"]
    return {
        "temperature": state[f"{key}-temperature"],
        "max_new_tokens": state[f"{key}-length"],
        "top_p": state[f"{key}-top_p"],
        "repetition_penalty": state[f"{key}-penalty"],
        "seed": secrets.randbelow(DRAWN_SEEDS) if seed is None else seed,
    }
