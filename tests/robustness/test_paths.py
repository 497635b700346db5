"""What is no path: wherever a user names a file or a folder, one sentence says so."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import slm
from slm.stories.cleaning import Cleaning, Stories
from slm.stories.practice import practice_stories
from slm.utils.settings_checks import show_value

TEXTS = practice_stories(30)
STORIES = Stories(TEXTS[6:], TEXTS[:6], "practice", True, Cleaning(30, 0, 0, 0, 0, 30))
SIZES = {"n_layers": 1, "n_heads": 1, "d_model": 16, "context_length": 32, "batch_size": 2}
NO_PATHS = [5, 5.0, True, b"mine", ["mine"], {}, object(), "", "mi\0ne", "mi\ud800ne"]
CALLS = [
    "train",
    "finetune",
    "save_model",
    "load_model",
    "load_tokenizer",
    "Tokenizer.save",
    "export_html",
    "export_gguf",
    "export_onnx",
    "story_report",
    "model_card",
    "push_to_hub",
]
NONE_IS_TAKEN = {"train", "finetune"}
LONGEST = 400  # letters of a sentence


@pytest.fixture
def call(random_model, tokenizer, tmp_path, monkeypatch) -> Callable:
    """Call a function by its name, with a path of one's own."""
    monkeypatch.chdir(tmp_path)
    model = random_model()
    slm.save_model("whole", model, tokenizer)
    settings = {"tokenizer": tokenizer, "steps": 1, "device": "cpu", **SIZES}
    functions = {
        "train": lambda path: slm.train(STORIES, folder=path, **settings),
        "finetune": lambda path: slm.finetune(
            model, tokenizer, TEXTS, ordinary=STORIES, folder=path, epochs=1, device="cpu"
        ),
        "save_model": lambda path: slm.save_model(path, model, tokenizer),
        "load_model": slm.load_model,
        "load_tokenizer": slm.load_tokenizer,
        "Tokenizer.save": tokenizer.save,
        "export_html": lambda path: slm.export_html("whole", path),
        "export_gguf": lambda path: slm.export_gguf("whole", path),
        "export_onnx": lambda path: slm.export_onnx("whole", path),
        "story_report": lambda path: slm.story_report(model, tokenizer, STORIES, file=path),
        "model_card": slm.model_card,
        "push_to_hub": lambda path: slm.push_to_hub(path, "me/mine"),
    }
    needed = {"export_gguf": "gguf", "export_onnx": "onnx", "story_report": "matplotlib"}

    def call(name: str, path: object) -> object:
        if name in needed:
            pytest.importorskip(needed[name])
        return functions[name](path)

    return call


def assert_one_sentence(sentence: str) -> None:
    assert len(sentence) <= LONGEST
    assert "\n" not in sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize("path", NO_PATHS, ids=show_value)
@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_path_is_refused_in_one_sentence(name, path, call):
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(ValueError, match="names no file or folder") as refused:
        call(name, path)
    assert_one_sentence(str(refused.value))
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.parametrize("name", [name for name in CALLS if name not in NONE_IS_TAKEN])
def test_none_is_no_path_where_the_type_does_not_say_so(name, call):
    with pytest.raises(ValueError, match=r"^None \(NoneType\) names no file or folder"):
        call(name, None)


@pytest.mark.parametrize("name", CALLS)
def test_a_file_where_a_folder_is_expected_is_said_in_one_sentence(name, call):
    Path("file").write_text("no folder", encoding="utf-8")
    takes_a_file = name.startswith("export") or name == "story_report"
    with pytest.raises((OSError, ValueError), match="file") as refused:
        call(name, "file/within" if takes_a_file else "file")
    assert_one_sentence(str(refused.value))
    assert Path("file").read_text(encoding="utf-8") == "no folder"


@pytest.mark.parametrize("name", CALLS)
def test_a_name_that_is_too_long_is_said_in_one_sentence(name, call):
    with pytest.raises((OSError, ValueError), match="x" * 20) as refused:
        call(name, "x" * 5_000)
    assert_one_sentence(str(refused.value).replace("x" * 5_000, "x"))


@pytest.mark.parametrize("name", ["save_model", "load_model", "Tokenizer.save", "load_tokenizer"])
def test_any_kind_of_path_is_taken(name, call):
    class OwnPath(os.PathLike):
        def __fspath__(self) -> str:
            return "whole"

    call(name, OwnPath())
