"""Enormous numbers, and characters that are none, as arguments: never more than a sentence."""

import os
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import slm
from slm.cli.main import COMMANDS, main

BEGINNINGS = {
    "generate": "generate --model model",
    "train": "train --stories mine.txt --folder run",
    "evaluate": "evaluate model --stories mine.txt",
    "finetune": "finetune mine.txt --model model --folder new",
    "quantize": "quantize model small --bits 4",
    "export": "export model page.html",
    "serve": "serve model",
    "app": "app --headless",
}
ENORMOUS = ["9" * 30, "-" + "9" * 30, "9" * 5000, "1e999", "nan"]
ODD_TEXTS = ["\udcff", "\ud800", "a\0b", ""]


def options_of(name: str, *kinds: type) -> list[str]:
    """The options of a command whose values may be of these types."""
    found = []
    for parameter, hint in get_type_hints(COMMANDS[name]).items():
        hints = {parameter: hint}
        if is_dataclass(hint):
            hints = {field.name: field.type for field in fields(hint)}
        for option, kind in hints.items():
            if option in ("return", "vocab_size", "bits"):  # not options, or a choice
                continue
            if kind in kinds or set(kinds) & set(get_args(kind)):
                found.append("--" + option.replace("_", "-"))
    return found


NUMERIC = [(name, option) for name in COMMANDS for option in options_of(name, int, float)]
TEXTS = [
    *[("train", option) for option in ("--stories", "--tokenizer", "--folder", "--teachers")],
    *[("serve", option) for option in ("--host", "--api-key", "--origin")],
    ("generate", "--model"),
    ("evaluate", "--stories"),
    ("evaluate", "--report"),
    ("finetune", "--folder"),
    ("finetune", "--model"),
    ("export", "--title"),
]


def exit_code(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as stopped:
        return stopped.code


def test_the_numeric_options_are_found():
    assert len(NUMERIC) > 50
    assert ("serve", "--port") in NUMERIC
    assert ("generate", "--top-k") in NUMERIC


@pytest.mark.parametrize("number", ENORMOUS, ids=lambda number: number[:5])
@pytest.mark.parametrize(("name", "option"), NUMERIC)
def test_an_enormous_number_is_refused(name, option, number, model, served, capsys):
    if name == "app":
        pytest.importorskip("streamlit")
    assert exit_code([*BEGINNINGS[name].split(), f"{option}={number}"]) in (1, 2)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    if error.startswith("slm: "):
        assert error.count("\n") == 1
        assert len(error) < 400


@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
@pytest.mark.parametrize(("name", "option"), TEXTS)
def test_an_odd_text_is_taken_or_refused_in_a_sentence(
    name, option, text, model, served, capsys, monkeypatch
):
    ordinary = slm.load_stories("mine.txt")
    monkeypatch.setattr("slm.finetuning.loop.load_stories", lambda n: ordinary)
    small = {
        "train": "--steps 1 --d-model 16 --n-layers 1 --context-length 32 --batch-size 2",
        "finetune": "--epochs 1",
        "generate": "--max-new-tokens 3",
        "evaluate": "--evaluation-stories 2",
        "serve": "--port 0",
    }
    arguments = [*BEGINNINGS[name].split(), *small.get(name, "").split(), f"{option}={text}"]
    code = exit_code(arguments)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    if code == 1:
        assert error.startswith("slm: ")
        assert error.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are text there, not bytes")
@pytest.mark.parametrize("argument", [b"\xff\xfe", "日本".encode("utf-16-le")])
def test_bytes_that_are_no_text_are_a_prompt_like_any_other(argument, model):
    command = [sys.executable, "-m", "slm", "generate", argument, "--model", "model"]
    own = {"PYTHONPATH": str(Path(slm.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=os.environ | own, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
