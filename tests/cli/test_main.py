import os
import subprocess
import sys
from pathlib import Path

import pytest

import slm
from slm.cli.main import COMMANDS, main

ROOT = str(Path(slm.__file__).parents[1])
ENVIRONMENT = os.environ | {"PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_alone_it_says_what_can_be_done(arguments, capsys):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"\n  {name} " in shown
        assert command.__doc__.splitlines()[0] in shown


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "--help"], ["serve", "--help"]])
def test_help_does_not_wait_for_pytorch(arguments):
    script = f"""
import sys
from slm.cli.main import main
try:
    main({arguments})
finally:
    print(*sys.modules, file=sys.stderr)
"""
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert "usage: python -m slm" in run.stdout
    modules = run.stderr.split()
    assert "tyro" in modules
    assert not {"torch", "numpy", "pandas", "transformers", "streamlit"} & set(modules)


def test_an_unknown_command_is_refused_and_the_likely_one_named(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "slm: There is no command 'trian': did you mean 'train'?\n"
    assert main(["--model", "x"]) == 2
    assert "generate, train, evaluate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("generate --model nowhere", "There is no model at nowhere"),
        ("generate --model model --n 0", "n must be"),
        ("finetune nowhere.txt --model model --folder x", "there is no file"),
        ("quantize model x --group-size 5", "5"),
        ("export model x.bin", "Give a .gguf, .onnx or .html file"),
        ("evaluate nowhere --stories mine.txt", "There is no model at nowhere"),
        ("evaluate model --stories nowhere.txt", "there is no file"),
        ("train --stories nowhere.txt", "there is no file"),
        ("train --stories mine.txt --steps 0", "steps must be"),
        ("train --stories mine.txt --steps 5 --minutes 1", "Give one of"),
        ("train --stories mine.txt --n-heads 3", "n_heads"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_without_a_traceback(model, capsys, words, said):
    assert main(words.split()) == 1
    error = capsys.readouterr().err
    assert error.startswith("slm: ")
    assert said in error
    assert "Traceback" not in error


def test_an_interrupted_command_says_so_by_its_exit_code(model, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(slm, "stream", interrupt)
    assert main(["generate", "--model", model]) == 130


def run_in_shell(command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m slm {command}"],
        env=ENVIRONMENT | environment,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    "command", ["generate --model model --max-new-tokens 2000", "train --help"]
)
def test_a_reader_that_has_read_enough_is_no_error(command, model):
    run = run_in_shell(f"{command} | head -c 1")
    assert (run.returncode, run.stderr) == (0, b"")


def test_a_console_that_cannot_show_a_character_still_shows_the_story(model):
    run = run_in_shell('generate "Zoë 日本" --model model', PYTHONIOENCODING="ascii")
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout.startswith(b"Zo? ??")


def test_exit_codes_reach_the_shell(model):
    assert run_in_shell("generate --model nowhere").returncode == 1
    assert run_in_shell("generate --nonsense").returncode == 2
    assert run_in_shell("nonsense").returncode == 2
