"""Sliders for how a story is written, in plain words."""

import streamlit as st


def draw_controls(key: str) -> None:
    """Draw the sliders of one story; `key` tells those of several stories apart."""
    meaning = "0: always the likeliest word. Around 0.8: lively. Above 1.2: wild."
    st.slider(
        "Temperature (how daring)", 0.0, 2.0, 0.8, 0.05, key=f"{key}-temperature", help=meaning
    )
    meaning = "The story may end by itself before that. A token is a short word or a part of one."
    st.slider("Length, in tokens", 20, 400, 200, 10, key=f"{key}-length", help=meaning)
    with st.expander("More settings"):
        meaning = "0.9: the least likely words, which share a tenth of all chances, are left out."
        label = "Only likely words (top-p)"
        st.slider(label, 0.05, 1.0, 1.0, 0.05, key=f"{key}-top_p", help=meaning)
        meaning = "Above 1, words that have come before become less likely."
        st.slider("Avoid repeating", 1.0, 2.0, 1.0, 0.05, key=f"{key}-penalty", help=meaning)
        meaning = "The same number writes the same story again. Empty: another each time."
        st.number_input("Seed", 0, 2**31, None, key=f"{key}-seed", help=meaning)


def chosen_settings(key: str) -> dict:
    """What the sliders are set to at this moment, as settings of `slm.stream`."""
    state = st.session_state
    return {
        "temperature": state[f"{key}-temperature"],
        "max_new_tokens": state[f"{key}-length"],
        "top_p": state[f"{key}-top_p"],
        "repetition_penalty": state[f"{key}-penalty"],
        "seed": state[f"{key}-seed"],
    }
