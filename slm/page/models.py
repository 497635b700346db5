"""The models that the page can write with: the bundled one and those in the folder runs/."""

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

import slm
from slm.model.transformer import Transformer
from slm.page.markdown import literal
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.files import ASSETS

BUNDLED = "the bundled model"
RUNS = Path("runs")
_FILES = (  # what a model is loaded from
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
)


@dataclass(frozen=True)
class LoadedModel:
    """A model that writes stories."""

    name: str  # on the page
    changed: int  # when its files were last written
    model: Transformer
    tokenizer: Tokenizer


def find_models() -> tuple[dict[str, Path], dict[str, str]]:
    """The folders of the models that load, and of all others the reason; both by name."""
    loadable = {BUNDLED: ASSETS / "stories"}
    problems = {}
    for folder in sorted(RUNS.glob("*/")):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        problem = _problem(str(folder), _changed(folder))
        if problem:
            problems[folder.as_posix()] = problem
        else:
            loadable[folder.as_posix()] = folder
    return loadable, problems


def load_named(name: str, folder: Path) -> LoadedModel:
    """The model in a folder. Raises OSError or ValueError where it cannot be loaded."""
    changed = _changed(folder)
    return LoadedModel(name, changed, *_load(str(folder), changed))


def _changed(folder: Path) -> int:
    """When a model's files were last written: another number once there is another model."""
    files = [folder / name for name in _FILES]
    return max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)


@st.cache_resource(max_entries=3, show_spinner="Loading the model ...")
def _load(folder: str, changed: int) -> tuple[Transformer, Tokenizer]:
    """A model: once, and again where its folder has changed."""
    return slm.load_model(folder)


@st.cache_data(max_entries=1000, show_spinner="Looking through the folder runs ...")
def _problem(folder: str, changed: int) -> str:
    """Why a model cannot be loaded; nothing where it can."""
    if changed == 0:
        return "There is no model in it, or none yet."
    try:
        slm.load_model(folder)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def choose_model(unfinished: Path | None = None) -> LoadedModel:
    """Let a model be chosen; where it cannot be loaded, say so and end the script.

    `unfinished` is the folder of a model that is being fine-tuned: that it cannot be loaded yet is
    no problem.
    """
    loadable, problems = find_models()
    if unfinished is not None:
        problems.pop(unfinished.as_posix(), None)
    if st.session_state.get("model") not in loadable:
        st.session_state["model"] = BUNDLED
    name = st.selectbox(
        "Model",
        list(loadable),
        key="model",
        help="Models that you have trained are in the folder runs, and listed here too.",
    )
    if problems:
        noun = "folder" if len(problems) == 1 else "folders"
        with st.expander(f"{len(problems)} {noun} in runs cannot be loaded"):
            for folder, problem in problems.items():
                st.text(f"{folder}: {problem}")
    try:
        return load_named(name, loadable[name])
    except (OSError, ValueError) as error:  # it has been changed this very moment
        st.error(f"This model cannot be loaded. {literal(str(error))}")
        st.stop()
