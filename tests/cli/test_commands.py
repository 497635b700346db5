import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import slm
from slm.cli.commands import main, parser, value
from slm.stories.practice import practice_stories

SMALL = "--d_model 32 --n_layers 1 --context_length 32 --batch_size 2 --evaluation_stories 2"


@pytest.fixture
def stories(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    text = "\n<|endoftext|>\n".join(practice_stories(30))
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    return "mine.txt"


def test_train_trains_and_says_where_the_model_is(stories, capsys):
    words = f"train --stories {stories} --steps 2 --folder here {SMALL}"
    assert main(words.split()) == 0
    assert "The model is in here." in capsys.readouterr().out
    model, _ = slm.load_model("here")
    assert model.config.d_model == 32


def test_every_field_of_the_configurations_is_an_option():
    options = vars(parser().parse_args(["train", "--n_kv_heads", "2", "--learning_rate", "1e-3"]))
    assert (options["n_kv_heads"], options["learning_rate"]) == (2, 0.001)
    assert "dropout" not in options  # what is not given is left to the preset


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("3", 3), ("0.5", 0.5), ("true", True), ("False", False), ("none", None), ("muon", "muon")],
)
def test_what_a_settings_text_means(text, meaning):
    assert value(text) == meaning
    assert type(value(text)) is type(meaning)


@pytest.fixture
def model(stories, random_model, tokenizer) -> str:
    slm.save_model("model", random_model(), tokenizer)
    return "model"


def test_generate_writes_what_the_package_writes(model, capsys):
    words = ["generate", "Once", "--model", model, "--seed", "3", "--max_new_tokens", "9"]
    how = dict(seed=3, max_new_tokens=9)
    assert main(words) == 0
    one = slm.generate(*slm.load_model(model), "Once", **how)
    assert capsys.readouterr().out == one + "\n"
    assert main([*words, "--n", "2"]) == 0
    two = slm.generate(*slm.load_model(model), "Once", n=2, **how)
    assert capsys.readouterr().out == f"{two[0]}\n\n---\n{two[1]}\n"


def test_evaluate_prints_the_scores_of_the_model_and_of_those_that_count(model, stories, capsys):
    assert main(f"evaluate {model} --stories {stories}".split()) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-4:]]
    assert rows[0] == ["bits", "per", "byte", "nats", "per", "token", "perplexity"]
    assert [row[0] for row in rows[1:]] == ["model", "3-gram", "2-gram"]
    score = slm.evaluate(*slm.load_model(model), slm.load_stories(stories).validation)
    assert float(rows[1][1]) == pytest.approx(score.bits_per_byte, abs=1e-3)


def test_evaluate_writes_a_report(model, stories, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(slm, "story_report", lambda *a, **k: calls.append(k) or k["file"])
    command = f"evaluate {model} --stories {stories} --report page.html --evaluation_stories 2"
    assert main(command.split()) == 0
    assert "Wrote page.html." in capsys.readouterr().out
    assert calls == [{"name": "model", "file": "page.html", "evaluation_stories": 2}]


def test_finetune_keeps_a_model_and_shows_before_and_after(model, stories, capsys, monkeypatch):
    ordinary = slm.load_stories(stories)
    monkeypatch.setattr("slm.finetuning.loop.load_stories", lambda n: ordinary)
    words = f"finetune {stories} --model {model} --folder new --epochs 1 --batch_size 2"
    assert main(words.split()) == 0
    told = capsys.readouterr().out
    assert "your held-out stories" in told and "The model is in new." in told
    assert slm.load_model("new")[0].config == slm.load_model(model)[0].config


def test_quantize_keeps_a_smaller_model(model, capsys):
    assert main(f"quantize {model} small --bits 4 --group_size 16".split()) == 0
    assert "The model is in small." in capsys.readouterr().out
    assert slm.load_model("small")[0].quantization["bits"] == 4


def test_export_goes_by_the_ending(model, capsys, monkeypatch):
    for name in ("export_gguf", "export_onnx", "push_to_hub"):
        told = lambda *given, name=name, **how: f"{name} {given} {how}"  # noqa: E731
        monkeypatch.setattr(slm, name, told)
    for words, said in (
        ("x.gguf --type q8_0", "export_gguf ('model', 'x.gguf', 'q8_0') {}"),
        ("x.onnx --int8", "export_onnx ('model', 'x.onnx') {'int8': True}"),
        ("me/mine", "push_to_hub ('model', 'me/mine') {}"),
    ):
        assert main(f"export {model} {words}".split()) == 0
        assert said in capsys.readouterr().out


def test_serve_serves_the_model_with_the_limits_given(model, capsys, monkeypatch):
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi_offline")
    calls = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **how: calls.append((app, how)))
    assert main(f"serve {model} --port 9000 --most_tokens 7".split()) == 0
    [(app, how)] = calls
    assert (how["host"], how["port"]) == ("127.0.0.1", 9000)
    assert "/v1/completions" in {route.path for route in app.routes}
    assert "http://127.0.0.1:9000/docs" in capsys.readouterr().out


def test_an_interrupted_command_says_so_by_its_exit_code(model, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(slm, "stream", interrupt)
    assert main(["generate", "--model", model]) == 130


def test_a_reader_that_has_read_enough_is_no_error(model):
    root = str(Path(slm.__file__).parents[1])
    command = f"{sys.executable} -m slm generate --model {model} --max_new_tokens 2000 | head -c 1"
    run = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("generate --model nowhere", "There is no model at nowhere"),
        ("generate --model model --temperature hot", "temperature must be"),
        ("generate --model model --n 0", "n must be"),
        ("finetune nowhere.txt --model model --folder x", "there is no file"),
        ("finetune mine.txt --model model --folder x --epochs 0", "epochs must be"),
        ("quantize model x --bits 5", "bits must be"),
        ("export model x.bin", "Give a .gguf or .onnx"),
        ("evaluate nowhere --stories mine.txt", "There is no model at nowhere"),
        ("evaluate model --stories nowhere.txt", "there is no file"),
        ("train --stories nowhere.txt", "there is no file"),
        ("train --stories mine.txt --steps 0", "steps must be"),
        ("train --stories mine.txt --steps 5 --minutes 1", "Give one of"),
        ("train --stories mine.txt --n_heads 3", "n_heads"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_without_a_traceback(model, capsys, words, said):
    assert main(words.split()) == 1
    error = capsys.readouterr().err
    assert error.startswith("slm: ")
    assert said in error
    assert "Traceback" not in error


def test_a_misspelt_setting_is_refused(capsys):
    with pytest.raises(SystemExit) as refused:
        main(["train", "--learning_rat", "3"])
    assert refused.value.code == 2
    assert "--learning_rat" in capsys.readouterr().err


def test_help_shows_examples(tmp_path):
    root = str(Path(slm.__file__).parents[1])
    command = [sys.executable, "-m", "slm", "train", "--help"]
    run = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert "python -m slm train --stories" in run.stdout
    assert "--learning_rate" in run.stdout


def test_the_history_that_is_kept_is_of_the_steps_asked_for(stories):
    assert main(f"train --stories {stories} --steps 3 --folder run {SMALL}".split()) == 0
    history = json.loads(Path("run/history.json").read_text(encoding="utf-8"))
    assert [step["step"] for step in history["steps"]] == [1, 2, 3]
