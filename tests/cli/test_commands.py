import errno
import json
import os
import sys
from pathlib import Path

import pytest

import slm
from slm.cli.main import main

SMALL = "--d-model 32 --n-layers 1 --context-length 32 --batch-size 2 --evaluation-stories 2"


def test_train_trains_and_says_where_the_model_is(stories, capsys):
    words = f"train --stories {stories} --steps 2 --folder here {SMALL}"
    assert main(words.split()) == 0
    assert "The model is in here." in capsys.readouterr().out
    model, _ = slm.load_model("here")
    assert model.config.d_model == 32


def test_generate_writes_what_the_package_writes(model, capsys):
    words = ["generate", "Once", "--model", model, "--seed", "3", "--max-new-tokens", "9"]
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
    command = f"evaluate {model} --stories {stories} --report page.html --evaluation-stories 2"
    assert main(command.split()) == 0
    assert "Wrote page.html." in capsys.readouterr().out
    assert calls == [{"name": "model", "file": "page.html", "evaluation_stories": 2}]


def test_finetune_keeps_a_model_and_shows_before_and_after(model, stories, capsys, monkeypatch):
    ordinary = slm.load_stories(stories)
    monkeypatch.setattr("slm.finetuning.loop.load_stories", lambda n: ordinary)
    words = f"finetune {stories} --model {model} --folder new --epochs 1 --batch-size 2"
    assert main(words.split()) == 0
    told = capsys.readouterr().out
    assert "your held-out stories" in told and "The model is in new." in told
    assert slm.load_model("new")[0].config == slm.load_model(model)[0].config


@pytest.fixture
def full_disk(monkeypatch, tmp_path):
    """A disk that has no room, but for a folder of temporary files elsewhere."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    fsync = os.fsync

    def write(number):
        if not Path(f"/proc/self/fd/{number}").resolve().is_relative_to(tmp_path / "temporary"):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(number)

    monkeypatch.setattr(os, "fsync", write)
    return tmp_path / "temporary"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says which file is written")
@pytest.mark.parametrize("command", ["train --stories {stories} --steps 2", "finetune {stories}"])
def test_a_model_that_cannot_be_saved_is_not_lost_with_the_process(
    command, stories, model, full_disk, capsys, monkeypatch
):
    ordinary = slm.load_stories(stories)
    monkeypatch.setattr("slm.finetuning.loop.load_stories", lambda n: ordinary)
    sizes = SMALL if "train" in command else f"--model {model} --epochs 1 --batch-size 2"
    words = f"{command.format(stories=stories)} --folder new {sizes}"
    assert main(words.split()) == 1
    said = capsys.readouterr()
    [folder] = full_disk.iterdir()
    assert f"The model is in {folder} instead: move it from there." in said.out
    assert slm.load_model(folder)[0].config.d_model == 32
    assert "run.model" not in said.err


def test_quantize_keeps_a_smaller_model(model, capsys):
    assert main(f"quantize {model} small --bits 4 --group-size 16".split()) == 0
    assert "The model is in small." in capsys.readouterr().out
    assert slm.load_model("small")[0].quantization["bits"] == 4


@pytest.mark.parametrize(
    ("options", "called"),
    [
        ("x.gguf --type q8_0", ("export_gguf", ("model", "x.gguf", "q8_0"), {})),
        ("x.onnx --int8", ("export_onnx", ("model", "x.onnx"), {"int8": True})),
        ("me/mine", ("push_to_hub", ("model", "me/mine"), {})),
    ],
)
def test_export_goes_by_the_ending(options, called, capsys, monkeypatch):
    calls = []

    def record(name):
        def export(*given, **settings):
            calls.append((name, given, settings))
            return "the place"

        return export

    for name in ("export_gguf", "export_onnx", "push_to_hub"):
        monkeypatch.setattr(slm, name, record(name))
    assert main(["export", "model", *options.split()]) == 0
    assert calls == [called]
    assert "the place" in capsys.readouterr().out


def test_serve_serves_the_model_with_the_limits_given(model, served, capsys):
    testclient = pytest.importorskip("starlette.testclient")
    assert main(f"serve {model} --port 0 --max-tokens 7".split()) == 0  # 0: any port that is free
    [(app, (host, port))] = served
    assert host == "127.0.0.1"
    assert f"http://127.0.0.1:{port}/docs" in capsys.readouterr().out
    with testclient.TestClient(app) as client:
        answer = client.post("/v1/completions", json={"prompt": "Once", "max_tokens": 8})
        assert (answer.status_code, "at most 7" in answer.text) == (400, True)


@pytest.mark.parametrize("given", ["--api-key secret", "--api_key secret", "in the environment"])
def test_serve_asks_for_the_api_key_that_was_given(given, model, served, monkeypatch):
    testclient = pytest.importorskip("starlette.testclient")
    if given == "in the environment":
        monkeypatch.setenv("SLM_API_KEY", "secret")
        given = ""
    assert main(["serve", model, "--port", "0", *given.split()]) == 0
    [(app, _)] = served
    with testclient.TestClient(app) as client:
        assert client.get("/v1/models").status_code == 401
        own = {"Authorization": "Bearer secret"}
        assert client.get("/v1/models", headers=own).status_code == 200


def test_app_opens_the_page_for_this_computer_alone(monkeypatch):
    bootstrap = pytest.importorskip("streamlit.web.bootstrap")
    calls = []
    monkeypatch.setattr(bootstrap, "load_config_options", lambda options: None)
    monkeypatch.setattr(bootstrap, "run", lambda *given: calls.append(given))
    assert main(["app", "--headless", "--port", "9001"]) == 0
    [(page, _, _, options)] = calls
    assert "streamlit" in Path(page).read_text(encoding="utf-8")
    assert (options["server.port"], options["server.headless"]) == (9001, True)
    assert options["server.address"] == "127.0.0.1"


def test_the_history_that_is_kept_is_of_the_steps_asked_for(stories):
    assert main(f"train --stories {stories} --steps 3 --folder run {SMALL}".split()) == 0
    history = json.loads(Path("run/history.json").read_text(encoding="utf-8"))
    assert [step["step"] for step in history["steps"]] == [1, 2, 3]
