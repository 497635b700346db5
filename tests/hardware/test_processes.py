import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import slm
from slm.stories.practice import practice_stories

# Two processes train a few steps, are stopped after the third, and one process finishes the run.
SCRIPT = """
import atexit
import json
import os
import signal
import sys
from contextlib import suppress

import torch
from slm.hardware.processes import ProcessGroup
from slm.stories.practice import practice_stories
from slm.stories.cleaning import Cleaning, Stories
from slm.training.loop import train


def threads():
    "At the very end, after what was asked for later than this."
    names = []
    for task in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError):  # it has just ended
            names.append(open(f"/proc/self/task/{task}/comm", encoding="utf-8").read().strip())
    print("left behind:", [name for name in names if "gloo" in name])


if sys.platform == "linux":
    atexit.register(threads)
torch.set_num_threads(1)
texts = practice_stories(40)
stories = Stories(texts[4:], texts[:4], "practice", True, Cleaning(40, 0, 0, 0, 0, 40))
size = dict(d_model=32, n_layers=1, n_heads=2, context_length=32, batch_size=4)
size |= dict(grad_accumulation=2)
size |= dict(steps=8, evaluations=2, evaluation_stories=2, device="cpu", precision="float32")
size |= dict(learning_rate=0.003, dropout=float(sys.argv[3]))


def stop(history):
    if len(history.steps) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGINT)


run = train(stories, **size, folder=sys.argv[1], callback=stop)
steps = [(step.step, step.loss, step.grad_norm, step.tokens) for step in run.history.steps]
weights = {name: weight.double().sum().item() for name, weight in run.model.named_parameters()}
facts = [run.finished, steps, len(run.history.evaluations), weights]
rank = os.environ.get("RANK", "0")
open(f"{sys.argv[1]}-{rank}.json", "w", encoding="utf-8").write(json.dumps(facts))
"""
ROOT = str(Path(slm.__file__).parents[1])
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def start(processes: int, folder: Path, *, stop_after: int = 0, dropout: float = 0.0) -> list:
    """Run the script in one or in two processes; what each of them found."""
    file = folder.with_name("script.py")
    file.write_text(SCRIPT, encoding="utf-8")
    launcher = TORCHRUN if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(file), str(folder), str(stop_after), str(dropout)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    files = [folder.with_name(f"{folder.name}-{rank}.json") for rank in range(processes)]
    return [done.stdout, *(json.loads(file.read_text(encoding="utf-8")) for file in files)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> list:
    """One process's run, from beginning to end."""
    return start(1, tmp_path_factory.mktemp("alone") / "run")[1]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> tuple[Path, list]:
    """Two processes' run, stopped after three steps."""
    folder = tmp_path_factory.mktemp("two") / "run"
    return folder, start(2, folder, stop_after=3)


def assert_alike(found: list, expected: list) -> None:
    """The same losses, gradients and tokens step by step, but for rounding."""
    np.testing.assert_allclose(found[1], expected[1][: len(found[1])], rtol=2e-3)


def test_two_processes_learn_what_one_does_from_the_same_batches(alone, interrupted):
    _, first, second = interrupted[1]
    assert len(first[1]) == 3
    assert_alike(first, alone)
    assert first[3] == second[3]  # their weights, bit by bit


def test_both_processes_stop_when_the_first_is_asked_to_and_only_it_speaks(interrupted):
    said, first, second = interrupted[1]
    assert first[0] is second[0] is False
    assert said.count("Stopped after step 3") == 1
    assert (first[2], second[2]) == (0, 0)


def test_a_run_goes_on_with_another_number_of_processes(alone, interrupted):
    folder, _ = interrupted
    said, found = start(1, folder)
    assert "Resuming the run" in said
    assert found[0]
    assert found[2] == 2
    assert_alike(found, alone)


def test_with_dropout_each_process_drops_other_numbers_but_weights_stay_the_same(tmp_path):
    _, first, second = start(2, tmp_path / "run", dropout=0.2)
    assert first[0]
    assert second[0]
    assert first[3] == second[3]
    assert (first[2], second[2]) == (2, 0)  # only the first one measures


@pytest.mark.skipif(sys.platform != "linux", reason="the names of threads are read from /proc")
def test_no_thread_outlives_python_where_it_could_abort_the_process(interrupted):
    said = interrupted[1][0]
    assert said.count("left behind: []") == 2


def test_the_command_line_trains_in_several_processes_and_speaks_once(tmp_path):
    text = "\n<|endoftext|>\n".join(practice_stories(30))
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    words = "train --stories mine.txt --steps 2 --folder run --d_model 32 --n_layers 1"
    words += " --context_length 32 --batch_size 2 --evaluation_stories 2"
    done = subprocess.run(
        [sys.executable, *TORCHRUN, "-m", "slm", *words.split()],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("training + ") == 1
    assert done.stdout.count("The model is in run.") == 1
    slm.load_model(tmp_path / "run")
