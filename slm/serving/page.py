"""The page (optional): `python -m slm app` opens it. Streamlit runs this file anew, from top to
bottom, whenever something on the page is touched."""

import time
from io import BytesIO
from pathlib import Path

import streamlit as st

import slm
from slm import plots
from slm.analysis.token_probabilities import mean_attention, token_probabilities
from slm.serving.page_html import coloured, plain
from slm.stories.files import parse_stories, read_stories

IDEAS = (
    "Once upon a time, there was a little",
    "One day, a small robot found",
    "The dragon was afraid of",
    "Lily and her cat went to the",
    '"Where is my hat?" asked the',
)
TALL = 340  # pixels kept for a story, so that nothing jumps while it grows


@st.cache_resource(max_entries=3, show_spinner="Loading the model ...")
def load(folder: str, changed: float):
    """A model and its tokenizer: once, and again where the folder has changed."""
    return slm.load_model(folder)


def models() -> dict[str, str]:
    """The available models by name: the bundled one and those in runs/."""
    found = {"the bundled model": "stories"}
    for config in sorted(Path("runs").glob("*/config.json")):
        if (config.parent / "model.safetensors").exists():
            found[config.parent.as_posix()] = str(config.parent)
    return found


def choose_model():
    """Let one be chosen; it and its tokenizer."""
    found = models()
    names = list(found)
    name = st.selectbox("Model", names, key="model", help="Your own are in the folder runs/.")
    folder = found.get(name, "stories")
    weights = Path(folder) / "model.safetensors"
    try:
        return load(folder, weights.stat().st_mtime if weights.exists() else 0.0)
    except (OSError, ValueError) as error:
        st.error(f"This model cannot be loaded. {error}")
        st.stop()


def knobs(key: str) -> dict:
    """The dials of how a story is written, in plain words."""
    told = "0: always the likeliest word. Around 0.8: lively. Above 1.2: wild."
    st.slider("Daring (temperature)", 0.0, 2.0, 0.8, 0.05, key=f"{key}-temperature", help=told)
    told = "The story may end by itself before that. A token is a short word or a part of one."
    st.slider("Length, in tokens", 20, 400, 200, 10, key=f"{key}-length", help=told)
    with st.expander("More dials"):
        told = "0.9: the least likely words, which share a tenth of all chances, are left out."
        st.slider("Only likely words (top-p)", 0.05, 1.0, 1.0, 0.05, key=f"{key}-top_p", help=told)
        told = "Above 1, words that have been used become less likely."
        st.slider("Avoid repeating", 1.0, 2.0, 1.0, 0.05, key=f"{key}-penalty", help=told)
        told = "The same number writes the same story again. Empty: another each time."
        st.number_input("Seed", 0, 2**31, None, key=f"{key}-seed", help=told)
    state = st.session_state
    return {
        "temperature": state[f"{key}-temperature"],
        "max_new_tokens": state[f"{key}-length"],
        "top_p": state[f"{key}-top_p"],
        "repetition_penalty": state[f"{key}-penalty"],
        "seed": state[f"{key}-seed"],
    }


def write(writer, prompt: str, settings: dict, place, key: str) -> None:
    """Write a story into a place of the page, word by word; what there is of it is kept at every
    moment, so that it stays when the writing is stopped."""
    state, shown = st.session_state, 0.0
    state[key] = {"text": prompt, "prompt": prompt}
    text = ""
    for piece in slm.stream(*writer, prompt, **settings):
        text += piece
        state[key] = {"text": text, "prompt": prompt}
        if time.monotonic() - shown > 1 / 20:
            place.html(plain(text, prompt))
            shown = time.monotonic()
    place.html(plain(text, prompt))


def story_tab(writer) -> None:
    """Write one story, and keep it."""
    state = st.session_state
    idea = st.pills("Ideas", IDEAS, key="idea", help="Take one, then change it below.")
    if idea and idea != state.get("last-idea"):
        state["prompt"] = idea
    state["last-idea"] = idea
    prompt = st.text_area("How does it begin?", IDEAS[0], key="prompt", max_chars=2000, height=80)
    left, right = st.columns(2)
    go = left.button("Write", type="primary", width="stretch", key="write")
    right.button("Stop", width="stretch", key="stop", help="The story so far stays.")
    with st.container(height=TALL, border=True):
        place = st.empty()
    saving = st.container()
    settings = knobs("one")
    if go:
        write(writer, prompt, settings, place, "story")
    elif "story" in state:
        place.html(plain(**state["story"]))
    else:
        place.html(plain("The story will appear here."))
    if "story" in state:
        text = state["story"]["text"]
        words = token_probabilities(*writer, text)
        left, right = saving.columns(2)
        left.download_button("Save as text", text.encode(), "story.txt", width="stretch")
        if words:
            picture = plots.confidence([w.piece for w in words], [w.probability for w in words])
            picture.savefig(image := BytesIO(), format="png")
            name = "story.png"
            right.download_button("Save as picture", image.getvalue(), name, width="stretch")


def why_tab(writer) -> None:
    """Why this word? The chances it had, and the others."""
    if "story" not in st.session_state:
        st.info("Write a story first.")
        return
    words = token_probabilities(*writer, st.session_state["story"]["text"])
    if not words:
        st.info("The story is empty.")
        return
    st.caption("The bluer a word, the surer the model was of it before it came.")
    last = len(words) - 1
    place = st.slider("Word", 1, len(words), min(10, last + 1), key="word") - 1 if last else 0
    shares = [word.probability for word in words]
    st.html(coloured([word.piece for word in words], shares, chosen=place))
    word = words[place]
    st.markdown(f"Word {place + 1} had a chance of **{word.probability:.1%}**.")
    pieces = [piece for piece, _ in word.likeliest]
    chances = {"what might have come here": [chance for _, chance in word.likeliest]}
    st.pyplot(plots.next_token(pieces, chances, most=len(pieces)), width="content")
    st.caption("Attention: the more orange a word, the more the chosen one listened to it.")
    text = st.session_state["story"]["text"]
    heard = mean_attention(*writer, text, min(place, writer[0].config.context_length - 2))
    most = max(heard)
    before = [word.piece for word in words[: len(heard)]]
    st.html(coloured(before, [x / most for x in heard], "230, 159, 0", chosen=len(heard) - 1))


def two_tab(writer) -> None:
    """Two stories side by side, from one beginning."""
    prompt = st.text_input("How do both begin?", IDEAS[0], key="prompt-two", max_chars=2000)
    columns = st.columns(2)
    settings = []
    for side, column in zip(("left", "right"), columns, strict=True):
        with column:
            settings.append(knobs(side))
    go = st.button("Write both", type="primary", key="write-two")
    places = []
    for column in columns:
        with column, st.container(height=TALL, border=True):
            places.append(st.empty())
    for side, place, how in zip(("left", "right"), places, settings, strict=True):
        if go:
            write(writer, prompt, how, place, f"story-{side}")
        elif f"story-{side}" in st.session_state:
            place.html(plain(**st.session_state[f"story-{side}"]))


def tune_tab(writer) -> None:
    """Fine-tune on one's own stories."""
    st.write("Give it stories of your own: two or more, better ten. They stay on this computer.")
    pasted = st.text_area("Paste them, with two blank lines between stories", key="pasted")
    kinds = ["txt", "csv", "json", "jsonl", "parquet"]
    files = st.file_uploader("or bring files", kinds, accept_multiple_files=True, key="files")
    tales = st.checkbox("or take the tales of a lighthouse robot, to try it", key="tales")
    name = st.text_input("Name of the new model", "mine", key="name", max_chars=40)
    if st.button("Teach it", type="primary", key="teach"):
        if not name.replace("-", "").replace("_", "").isalnum():
            st.error("Give it a name of letters, digits, - and _.")
            return
        bar = st.progress(0.0, "Reading ...")

        def tell(share: float, epochs: list[float]) -> None:
            score = f"; {epochs[-1]:.2f} nats per token on those held out" if epochs else ""
            bar.progress(share, f"Epoch {len(epochs) + 1}{score}")

        try:
            texts = [text for text in pasted.replace("\r", "").split("\n\n\n") if text.strip()]
            for file in files or []:
                texts += parse_stories(file.name, file.getvalue())
            texts += read_stories("lighthouse") if tales else []
            run = Path("runs") / name
            tuned = slm.finetune(*writer, texts, folder=run, callback=tell)
        except (OSError, ValueError) as error:
            st.error(str(error))
            return
        bar.progress(1.0, "Done.")
        scores = tuned.before["yours"].bits_per_byte, tuned.after["yours"].bits_per_byte
        st.session_state["tuned"] = {
            "run": run.as_posix(),
            "scores": scores,
            "samples": tuned.samples,
        }
    if "tuned" in st.session_state:
        done = st.session_state["tuned"]
        before, after = done["scores"]
        change = f"from {before:.2f} to {after:.2f} bits per byte on the stories held out"
        st.success(f"It has learnt: {change}. It is in {done['run']}.")
        st.button("Write with it", key="use", on_click=use, args=(done["run"],))
        for old, new in done["samples"][:2]:
            left, right = st.columns(2)
            left.html("<small>before</small>" + plain(old))
            right.html("<small>after</small>" + plain(new))


def use(run: str) -> None:
    """Choose a model on the page."""
    st.session_state["model"] = run


def main() -> None:
    """The whole page."""
    st.set_page_config("Stories", "📖", layout="centered")
    st.title("A small language model tells stories")
    writer = choose_model()
    tabs = st.tabs(["Write", "Why this word?", "Two stories", "Make it yours"])
    for tab, show in zip(tabs, (story_tab, why_tab, two_tab, tune_tab), strict=True):
        with tab:
            show(writer)


if __name__ == "__main__":
    main()
