import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

import slm
from slm.checkpoint.loading import load_model
from slm.checkpoint.saving import save_model
from slm.finetuning.loop import finetune
from slm.stories.cleaning import Cleaning, Stories
from slm.stories.practice import practice_stories
from slm.tokenizer.training import train_tokenizer
from slm.training.history import Run
from slm.training.loop import train
from slm.training.progress import stop_after_step
from slm.training.run_folder import RunFolder, SaveError
from slm.training.step import train_step

ROOT = Path(slm.__file__).parents[1]
TEXTS = practice_stories(40)
STORIES = Stories(TEXTS[4:], TEXTS[:4], "practice", True, Cleaning(40, 0, 0, 0, 0, 40))
TOKENIZER = train_tokenizer(TEXTS, 300)
TINY = {
    "tokenizer": TOKENIZER,
    "d_model": 32,
    "n_layers": 1,
    "n_heads": 2,
    "context_length": 32,
    "batch_size": 2,
    "evaluations": 2,
    "evaluation_stories": 2,
    "device": "cpu",
    "precision": "float32",
    "folder": "mine",
    "steps": 8,
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run_tiny(**settings) -> Run:
    return train(STORIES, **TINY | settings)


def at(step: int, do):
    """A callback that calls `do` after a certain step, and only then."""
    return lambda history: do() if len(history.steps) == step else None


def stop() -> None:
    signal.raise_signal(signal.SIGINT)


def refuse(*_):
    raise AssertionError("this must not be called")


def weights_of(folder) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(Path(folder) / "model.safetensors")


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def assert_same_weights(folder, run: Run) -> None:
    found = weights_of(folder)
    assert all(torch.equal(found[name], x) for name, x in run.model.state_dict().items())


# Whole folders


class PowerCut(BaseException):
    """Ends all, whatever else would be caught."""


def test_a_run_that_ends_between_two_files_of_a_save_is_never_without_its_model(monkeypatch):
    """Whichever file of the last save was the last one: the same call comes to the same end."""
    whole = run_tiny(folder="whole")
    replace, written = Path.replace, []

    def replace_or_die(self, target):
        if len(written) == files:
            raise PowerCut
        written.append(target.name)
        return replace(self, target)

    files, cut_off = 0, True
    while cut_off:
        folder, cut_off = f"run{files}", False
        written.clear()
        try:
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", replace_or_die)
                run_tiny(folder=folder)
        except PowerCut:
            cut_off = True
        run = run_tiny(folder=folder)
        assert run.finished
        assert_same_weights(folder, whole)
        assert load_model(folder)[1].digest == TOKENIZER.digest
        assert contents(folder).keys() == contents("whole").keys()
        files += 1
    assert files > 12  # of two saves
    assert written[-1] == "training.safetensors"


def run_script(code: str, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment | options.pop("env", {}),
        capture_output=True,
        timeout=600,
        **options,
    )


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "history.json"]
)
@pytest.mark.parametrize("damage", ["missing", "another's", "cut off"])
def test_a_finished_run_whose_other_files_are_not_its_own_is_mended(name, damage, capsys):
    first = run_tiny()
    other = run_tiny(folder="other", n_layers=2, tokenizer=train_tokenizer(TEXTS, 290))
    path, whole = Path("mine") / name, contents("mine")
    if damage == "missing":
        path.unlink()
    elif damage == "another's":
        path.write_bytes((other.folder / name).read_bytes())
    else:
        path.write_bytes(whole[name][:-20])
    capsys.readouterr()
    run = run_tiny(callback=refuse)
    assert "written again" in capsys.readouterr().out
    assert contents("mine") == whole
    assert_same_weights("mine", first)
    assert run.history == first.history
    run_tiny(callback=refuse)
    assert "written again" not in capsys.readouterr().out


def test_fresh_leaves_nothing_of_the_old_run_even_if_it_ends_at_once(monkeypatch):
    run_tiny(n_layers=2)

    def crash(*_):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("slm.training.loop.train_step", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            run_tiny(fresh=True)
    with pytest.raises(FileNotFoundError, match="no model"):
        load_model("mine")
    assert run_tiny().finished


# Temporary files


def test_temporary_files_of_killed_processes_are_swept_at_the_next_save():
    Path("mine").mkdir()
    for name in (".model.safetensors.4711.part", ".training.safetensors.0a1b2c3d.part"):
        (Path("mine") / name).write_bytes(b"half")
    run_tiny()
    assert [name for name in contents("mine") if ".part" in name] == []


# Two processes


WAITING = """
    import sys, time
    from tests.training.test_run_folder import *

    def wait():
        print("training", flush=True)
        time.sleep(600)

    run_tiny(callback=at(2, wait))
"""


@pytest.fixture
def training_process(tmp_path):
    """Another process that trains in the folder until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WAITING)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    while "training" not in (line := process.stdout.readline()):
        assert line, "it ended"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_as_long_as_the_first_one_lives(training_process):
    for settings in ({}, {"fresh": True}, {"n_layers": 2}):
        with pytest.raises(ValueError, match=r"^Another process is training in mine: .*\.$"):
            run_tiny(**settings)
    assert run_tiny(folder="other").finished
    training_process.kill()
    training_process.wait()
    assert run_tiny().finished


def test_another_thread_of_the_same_process_is_refused_too():
    said = []

    def meanwhile():
        try:
            run_tiny()
        except ValueError as error:
            said.append(str(error))

    def start():
        thread = threading.Thread(target=meanwhile)
        thread.start()
        thread.join()

    assert run_tiny(callback=at(3, start)).finished
    assert len(said) == 1
    assert "training in mine" in said[0]


def test_where_there_are_no_locks_training_goes_on(monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert run_tiny().finished


# What cannot be saved


class Disk:
    """A disk that is full when it is told so."""

    def __init__(self, monkeypatch):
        self.full = False
        fsync = os.fsync

        def write(number):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(number)

        monkeypatch.setattr(os, "fsync", write)

    def fill(self):
        self.full = True

    def empty(self):
        self.full = False


@pytest.fixture
def disk(monkeypatch) -> Disk:
    return Disk(monkeypatch)


def test_a_save_that_fails_in_mid_run_is_said_once_and_tried_again(disk, capsys):
    whole = run_tiny(folder="whole", steps=12, evaluations=6)
    capsys.readouterr()

    def callback(history):
        if len(history.steps) == 3:
            disk.fill()
        if len(history.steps) == 9:
            disk.empty()

    run = run_tiny(steps=12, evaluations=6, callback=callback)
    said = capsys.readouterr().out
    assert said.count("could not be saved in mine (No space left on device") == 1
    assert "Step 4 could not" in said
    assert "step 2 is safe there" in said
    assert "MB" in said
    assert_same_weights("mine", run)
    assert_same_weights("mine", whole)
    assert run_tiny(steps=12, evaluations=6, callback=refuse).finished


@pytest.mark.parametrize("ends", ["finished", "stopped"])
def test_a_last_save_that_fails_is_an_error_that_has_the_run(disk, ends):
    whole = run_tiny(folder="whole", callback=at(6, stop) if ends == "stopped" else None)

    def callback(history):
        if len(history.steps) == 5:
            disk.fill()
        if len(history.steps) == 6 and ends == "stopped":
            stop()

    with pytest.raises(SaveError, match=r"step 4 is safe there.*slm\.save_model") as failed:
        run_tiny(callback=callback)
    run = failed.value.run
    assert run.finished is (ends == "finished")
    assert [step.loss for step in run.history.steps] == [s.loss for s in whole.history.steps]
    disk.empty()
    save_model("elsewhere", run.model, run.tokenizer)
    assert_same_weights("elsewhere", whole)
    assert len(run_tiny().history.steps) == 8  # and the folder goes on from what was safe


@pytest.mark.parametrize("folder", ["file", "file/below", "file/far/below"])
def test_a_folder_that_cannot_be_written_shows_before_training(folder):
    Path("file").write_text("no folder")
    with pytest.raises(OSError, match=r"cannot be saved in .*: name a folder") as refused:
        run_tiny(folder=folder, callback=refuse)
    assert "slm.json" not in str(refused.value)


def test_a_read_only_folder_gives_its_finished_run_and_refuses_an_unfinished_one(monkeypatch):
    run_tiny(folder="done")
    run_tiny(folder="half", callback=at(3, stop))

    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("slm.training.run_folder.claim_folder", read_only)
    before = contents("done")
    assert run_tiny(folder="done", callback=refuse).finished
    assert contents("done") == before
    with pytest.raises(OSError, match=r"half \(Read-only file system\)"):
        run_tiny(folder="half", callback=refuse)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    run = run_tiny(folder="~/run")
    assert run.folder == tmp_path / "home" / "run"
    assert (tmp_path / "home" / "run" / "model.safetensors").exists()


# What else a folder may hold


def test_a_folder_of_a_model_is_not_overwritten_by_a_run():
    run = run_tiny(folder="run")
    save_model("mine", run.model, TOKENIZER)
    before = contents("mine")
    for fresh in (False, True):
        with pytest.raises(ValueError, match=r"^mine already holds a model: name another folder"):
            run_tiny(fresh=fresh, callback=refuse)
    assert contents("mine") == before


@pytest.mark.parametrize("name", ["config.json", "history.json"])
def test_a_file_of_something_else_is_not_overwritten_by_a_run(name):
    """As in a project's folder: such files have names that a run's have too."""
    Path("mine").mkdir()
    (Path("mine") / name).write_text('{"port": 8000}')
    for fresh in (False, True):
        with pytest.raises(ValueError, match=rf"{name} does not belong to a training run: name"):
            run_tiny(fresh=fresh, callback=refuse)
    assert contents("mine") == {name: b'{"port": 8000}'}


def test_a_run_may_be_saved_beside_its_tokenizer_and_notes():
    TOKENIZER.save("mine")
    Path("mine/notes.txt").write_text("my own")
    assert run_tiny().finished
    assert contents("mine")["notes.txt"] == b"my own"


def test_neither_a_model_nor_fine_tuning_overwrites_a_run():
    run = run_tiny()
    before = contents("mine")
    with pytest.raises(ValueError, match="mine already holds a training run"):
        save_model("mine", run.model, TOKENIZER)
    with pytest.raises(ValueError, match="mine already holds a training run"):
        finetune(run.model, TOKENIZER, TEXTS[:8], ordinary=STORIES, folder="mine", epochs=1)
    assert contents("mine") == before


def test_folders_of_earlier_versions_are_known_by_their_files():
    run = run_tiny(folder="run")
    (run.folder / "slm.json").unlink()
    assert run_tiny(folder="run", callback=refuse).finished
    (run.folder / "slm.json").unlink()
    with pytest.raises(ValueError, match="run already holds a training run"):
        save_model("run", run.model, TOKENIZER)
    save_model("model", run.model, TOKENIZER)
    (Path("model") / "slm.json").unlink()
    with pytest.raises(ValueError, match="model already holds a model"):
        run_tiny(folder="model")
    save_model("model", run.model, TOKENIZER)


# Numbers that are none


def test_weights_that_are_no_numbers_are_never_saved(random_model):
    """The loss of the last step was finite: only the weights show it."""
    models = []
    init = slm.Transformer.__init__

    def spoil(history):
        if len(history.steps) == 7:
            with torch.no_grad():
                models[0].model.norm.weight[3] = torch.inf

    def remember(self, *arguments):
        init(self, *arguments)
        models.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slm.Transformer, "__init__", remember)
        with pytest.raises(ValueError, match="lower learning_rate"):
            run_tiny(callback=spoil)
    assert all(weight.isfinite().all() for weight in weights_of("mine").values())
    assert len(json.loads((Path("mine") / "history.json").read_text())["steps"]) == 4
    assert run_tiny().finished


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_run_whose_scores_become_infinite_ends_in_a_sentence(optimizer):
    """Weights may still be finite then, and the first to see it is the sample."""
    with pytest.raises(ValueError, match="learning_rate") as ended:
        run_tiny(learning_rate=1e8, optimizer=optimizer, evaluations=8)
    assert "\n" not in str(ended.value)


def test_a_run_that_ends_worse_than_guessing_is_warned_of(capsys):
    run = run_tiny(learning_rate=10.0)
    assert run.history.evaluations[-1].nats_per_token > 6
    assert "worse than guessing. Train again with a lower learning_rate." in capsys.readouterr().out
    run_tiny(folder="good")
    assert "guessing" not in capsys.readouterr().out


# Stops


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_every_signal_that_ends_a_process_finishes_the_step_and_saves(name, capsys):
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip("not on this system")
    whole, before = run_tiny(folder="whole"), signal.getsignal(number)
    run = run_tiny(callback=at(3, lambda: signal.raise_signal(number)))
    assert not run.finished
    assert len(run.history.steps) == 3
    assert "Stopped after step 3" in capsys.readouterr().out
    assert signal.getsignal(number) is before
    assert_same_weights("mine", run)
    assert_same_weights(run_tiny().folder, whole)


@pytest.mark.parametrize(
    "names", [("SIGINT", "SIGINT"), ("SIGTERM", "SIGHUP"), ("SIGINT", "SIGTERM", "SIGTERM")]
)
def test_signals_that_come_together_are_one_wish(names):
    """As torchrun passes on the Ctrl-C that its processes get, too, and a shutdown sends two."""
    numbers = [getattr(signal, name, None) for name in names]
    if None in numbers:
        pytest.skip("not on this system")
    whole = run_tiny(folder="whole")
    run = run_tiny(callback=at(3, lambda: [signal.raise_signal(number) for number in numbers]))
    assert len(run.history.steps) == 3
    assert_same_weights("mine", run)
    assert_same_weights(run_tiny().folder, whole)


def test_a_stop_during_an_evaluation_keeps_its_score_and_its_step(monkeypatch):
    whole = run_tiny(folder="whole")
    evaluate = slm.evaluate

    def evaluate_while_a_signal_comes(*arguments):
        stop()
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("slm.training.evaluation_callback.evaluate", evaluate_while_a_signal_comes)
        run = run_tiny()
    assert len(run.history.steps) == 4
    assert run.history.evaluations == whole.history.evaluations[:1]
    assert_same_weights(run_tiny().folder, whole)


class OwnError(Exception):
    """Of a user's callback."""


def fail(error: BaseException | None = None):
    raise error or OwnError("in the plot")


@pytest.mark.parametrize("error", [OwnError("in the plot"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_in_a_callback_costs_no_step_and_reaches_the_user(error, capsys):
    whole = run_tiny(folder="whole")
    with pytest.raises(type(error)) as raised:
        run_tiny(callback=at(3, lambda: fail(error)))
    assert raised.value is error
    said = "An error ended training after step 3, which is saved in mine."
    assert said in capsys.readouterr().out
    assert len(facts("mine")["history"]["steps"]) == 3
    assert_same_weights(run_tiny().folder, whole)


@pytest.mark.parametrize("name", ["evaluate", "generate"])
def test_an_error_while_a_run_is_evaluated_costs_no_step(monkeypatch, name):
    whole = run_tiny(folder="whole", evaluations=4)
    calls = []
    original = getattr(slm, name)

    def fail_at_the_second_call(*given, **settings):
        calls.append(name)
        return fail() if len(calls) == 2 else original(*given, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(f"slm.training.evaluation_callback.{name}", fail_at_the_second_call)
        with pytest.raises(OwnError, match="in the plot"):
            run_tiny(evaluations=4)
    assert len(facts("mine")["history"]["steps"]) == 4
    run = run_tiny(evaluations=4)
    assert len(run.history.evaluations) == 4
    assert_same_weights(run.folder, whole)


def test_an_error_in_the_last_evaluation_leaves_a_finished_run_that_is_still_evaluated(monkeypatch):
    whole = run_tiny(folder="whole", evaluations=1)
    with monkeypatch.context() as patch:
        patch.setattr("slm.training.evaluation_callback.evaluate", lambda *_, **__: fail())
        with pytest.raises(OwnError, match="in the plot"):
            run_tiny(evaluations=1)
    run = run_tiny(evaluations=1)
    assert run.history.evaluations == whole.history.evaluations
    assert_same_weights(run.folder, whole)


def test_an_error_in_a_callback_is_not_hidden_by_a_gpu_that_fails_in_saving(monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("CUDA error: unspecified launch failure")

    def break_and_fail(history):
        if len(history.steps) == 3:
            monkeypatch.setattr("slm.training.run_folder.save_model_as", broken)
            monkeypatch.setattr("slm.training.run_folder.save_state", broken)
            fail()

    with pytest.raises(OwnError, match="in the plot"):
        run_tiny(callback=break_and_fail)
    assert "could not be saved in mine (CUDA error" in capsys.readouterr().out


def test_an_error_in_a_callback_is_not_hidden_by_one_in_saving(disk, capsys):
    with pytest.raises(OwnError):
        run_tiny(callback=at(3, lambda: [disk.fill(), fail()]))
    assert "Step 3 could not be saved in mine (No space left on device" in capsys.readouterr().out


def test_half_a_step_is_never_saved(monkeypatch):
    """An error within a step leaves what was saved before it."""
    whole = run_tiny(folder="whole")
    numbers = []

    def fail_within_the_sixth_step(*given):
        numbers.append(len(numbers) + 1)
        return fail() if numbers[-1] == 6 else train_step(*given)

    with monkeypatch.context() as patch:
        patch.setattr("slm.training.loop.train_step", fail_within_the_sixth_step)
        with pytest.raises(OwnError):
            run_tiny()
    assert len(facts("mine")["history"]["steps"]) == 4  # those of the first evaluation
    assert_same_weights(run_tiny().folder, whole)


def test_a_signal_while_the_end_is_saved_does_not_cost_it(monkeypatch):
    save_end = RunFolder.save_end

    def save_while_signals_come(*arguments):
        signal.raise_signal(signal.SIGTERM)
        save_end(*arguments)

    monkeypatch.setattr(RunFolder, "save_end", save_while_signals_come)
    run = run_tiny(callback=at(3, stop))
    assert len(facts("mine")["history"]["steps"]) == 3
    assert_same_weights("mine", run)


@pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be deleted there")
def test_a_folder_that_is_deleted_while_training_is_made_again():
    whole = run_tiny(folder="whole")
    run_tiny(callback=at(5, lambda: shutil.rmtree("mine")))
    assert contents("mine").keys() == contents("whole").keys()
    assert_same_weights("mine", whole)
    assert run_tiny(callback=refuse).finished


@pytest.mark.skipif(sys.platform == "win32", reason="links take a privilege there")
def test_a_link_to_a_folder_is_that_folder(training_process):
    Path("link").symlink_to("mine")
    with pytest.raises(ValueError, match="Another process is training in link"):
        run_tiny(folder="link", callback=refuse)
    Path("nowhere").symlink_to("gone/away")
    with pytest.raises(OSError, match="cannot be saved in nowhere"):
        run_tiny(folder="nowhere", callback=refuse)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows")
def test_a_signal_that_is_ignored_stays_so():
    """As by nohup: training goes on when the terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_after_step() as request:
            signal.raise_signal(signal.SIGHUP)
        assert not request.requested
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_a_terminated_process_has_saved_its_last_step():
    code = """
        import os, signal
        from tests.training.test_run_folder import *
        run_tiny(callback=at(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    """
    assert run_script(code).returncode == 0
    assert len(json.loads((Path("mine") / "history.json").read_text())["steps"]) == 3


# Resuming


def test_float16_goes_on_to_the_same_end_with_its_gradient_scaler():
    settings = {"precision": "float16", "steps": 12, "dropout": 0.1}
    whole = run_tiny(**settings, folder="whole")
    run_tiny(**settings, callback=at(5, stop))
    assert_same_weights(run_tiny(**settings).folder, whole)
    scalers = [facts(folder)["scaler"] for folder in ("whole", "mine")]
    assert scalers[0] == scalers[1]
    assert scalers[0]["_growth_tracker"] > 7


def facts(folder) -> dict:
    with safetensors.safe_open(Path(folder) / "training.safetensors", "pt") as file:
        return json.loads(file.metadata()["facts"])


@pytest.mark.parametrize(
    "changed", [{"compile": False}, {"evaluations": 4}, {"evaluation_stories": 1}]
)
def test_what_changes_nothing_that_is_learnt_does_not_forbid_to_resume(changed):
    whole = run_tiny(folder="whole")
    run_tiny(callback=at(3, stop))
    run = run_tiny(**changed)
    assert run.finished
    assert_same_weights("mine", whole)
    assert len(run.history.evaluations) == {4: 3}.get(changed.get("evaluations"), 2)
    assert run_tiny(callback=refuse).finished


def test_a_run_of_a_version_that_knew_fewer_settings_goes_on():
    whole = run_tiny(folder="whole")
    run_tiny(callback=at(3, stop))
    path = Path("mine") / "training.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    old = facts("mine")
    for name in ("teachers", "distillation"):
        del old["settings"][name]
    for name in ("scaler", "unfinished"):
        del old[name]
    path.write_bytes(safetensors.torch.save(tensors, {"facts": json.dumps(old)}))
    stories = replace(STORIES)
    run = train(stories, **TINY)
    assert run.finished
    assert [s.loss for s in run.history.steps][:3] == [s.loss for s in whole.history.steps][:3]


# Output


SAYS_ODD_THINGS = """
    import sys
    from tests.training.test_run_folder import *
    import slm.training.evaluation_callback
    slm.training.evaluation_callback.generate = lambda *_, **__: "Once \u3042\U0001f98a upon"
    run_tiny(folder="a\u3042b")
"""


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_an_odd_character_never_ends_training(encoding):
    done = run_script(SAYS_ODD_THINGS, env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"})
    assert done.returncode == 0, done.stderr
    assert b"Once" in done.stdout
    run = run_tiny(folder="a\u3042b", callback=refuse)
    assert run.finished


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
@pytest.mark.parametrize("where", ["/dev/full", "closed", "pipe"])
def test_output_that_cannot_be_written_never_ends_training(where):
    code = """
        import os, sys
        from tests.training.test_run_folder import *
        if sys.argv[1] == "closed":
            sys.stdout.close()
        elif sys.argv[1] == "pipe":
            read, write = os.pipe()
            os.close(read)
            sys.stdout = os.fdopen(write, "w", buffering=1)
        else:
            sys.stdout = open(sys.argv[1], "w", buffering=1)
        assert run_tiny().finished
        os._exit(0)
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), where]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert run_tiny(callback=refuse).finished
