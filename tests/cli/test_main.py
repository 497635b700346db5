import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


@pytest.mark.parametrize("port", [-1, 65_536, 99_999_999])
@pytest.mark.parametrize("command", ["serve model", "app --headless"])
def test_a_port_that_does_not_exist_is_refused_by_name(command, port, model, capsys):
    pytest.importorskip("fastapi_offline" if "serve" in command else "streamlit")
    assert main([*command.split(), "--port", str(port)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("slm: ")
    assert str(port) in error.replace(",", "")
    assert "ort" in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize(
    "command",
    [
        "train --stories mine.txt --steps 1 --d-model 32 --n-layers 1 --folder new",
        "finetune mine.txt --model model --epochs 1 --folder new",
    ],
)
def test_a_device_that_is_not_there_is_refused_by_name(command, device, model, capsys, monkeypatch):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    ordinary = slm.load_stories("mine.txt")
    monkeypatch.setattr("slm.finetuning.loop.load_stories", lambda n: ordinary)
    assert main([*command.split(), "--device", device]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("slm: ")
    assert "device" in said.err
    assert device in said.err
    assert "Mac" not in said.out


@pytest.mark.parametrize("value", ["0", "-1"])
@pytest.mark.parametrize("option", ["evaluation-stories", "n-stories"])
def test_a_number_of_stories_is_refused_by_the_name_of_its_option(option, value, model, capsys):
    command = f"evaluate {model} --stories mine.txt --{option} {value}"
    assert main(command.split()) == 1
    error = capsys.readouterr().err
    assert option.replace("-", "_") in error.replace("-", "_")
    assert value in error


@pytest.mark.parametrize("option", ["max-stories", "max-tokens", "max-prompt"])
def test_a_limit_of_the_server_is_refused_by_the_name_of_its_option(option, model, capsys):
    pytest.importorskip("fastapi_offline")
    assert main(["serve", model, "--port", "0", f"--{option}", "-1"]) == 1
    assert option.replace("-", "_") in capsys.readouterr().err.replace("-", "_")


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
