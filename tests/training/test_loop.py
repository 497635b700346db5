import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

import slm
import slm.tokenizer.pretrained
from slm.checkpoint.loading import load_model
from slm.evaluation import evaluate
from slm.hardware.memory import bytes_per_row, fixed_bytes
from slm.settings import PRESETS, ModelConfig, TrainConfig, configure
from slm.stories.cleaning import Cleaning, Stories
from slm.stories.practice import practice_stories
from slm.tokenizer.byte_pair import load_tokenizer
from slm.tokenizer.training import train_tokenizer
from slm.training.history import History, Run
from slm.training.loop import train
from slm.training.step import train_step

TEXTS = practice_stories(40)
STORIES = Stories(TEXTS[4:], TEXTS[:4], "practice", True, Cleaning(40, 0, 0, 0, 0, 40))
TOKENIZER = train_tokenizer(TEXTS, 400)
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
}
ROOT = str(Path(slm.__file__).parents[1])
TOKENS = 2 * 32  # read in a step
BUDGETS = {
    "steps": {"steps": 8},
    "tokens": {"tokens": 8 * TOKENS},
    "schedule": {"schedule": (0.01, 0.02, 0.03, 0.02, 0.01, 0.005, 0.002, 0.001)},
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run_tiny(**settings) -> Run:
    budget = {} if {"tokens", "minutes", "schedule"} & settings.keys() else {"steps": 8}
    return train(STORIES, **TINY | budget | settings)


def record(run: Run) -> tuple:
    """All of a history but the seconds."""
    steps = [replace(step, seconds=0.0) for step in run.history.steps]
    return steps, run.history.evaluations


def assert_equal(found: Run, expected: Run) -> None:
    """Both runs did the same and came to the same weights, bit by bit."""
    assert found.finished
    assert expected.finished
    assert record(found) == record(expected)
    weights = found.model.state_dict()
    assert all(torch.equal(weights[k], x) for k, x in expected.model.state_dict().items())


def at(step: int, do):
    """A callback that calls `do` after a certain step, and only then."""
    return lambda history: do() if len(history.steps) == step else None


def stop() -> None:
    signal.raise_signal(signal.SIGINT)


def crash() -> None:
    raise RuntimeError("power cut")


def refuse(*_, **__):
    raise AssertionError("this must not be called")


# Learning


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_loss_falls(optimizer):
    rate = {"muon": 0.02, "adamw": 0.005}[optimizer]
    history = run_tiny(steps=50, optimizer=optimizer, learning_rate=rate).history
    losses = [step.loss for step in history.steps]
    assert losses[0] == pytest.approx(math.log(400), abs=0.1)  # of 400 tokens none is preferred
    assert np.mean(losses[-5:]) < losses[0] - 0.7
    first, last = history.evaluations
    assert last.nats_per_token < first.nats_per_token
    assert last.bits_per_byte < first.bits_per_byte


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_same_seed_gives_the_same_run_and_another_another(dropout):
    first = run_tiny(dropout=dropout)
    torch.rand(7)
    assert_equal(run_tiny(dropout=dropout, folder="again"), first)
    other = run_tiny(dropout=dropout, seed=1)
    assert [step.loss for step in other.history.steps] != [s.loss for s in first.history.steps]


def test_dropout_is_active_while_training_and_off_afterwards():
    plain, dropping = run_tiny(), run_tiny(dropout=0.5)
    assert record(plain)[0][-1].loss != record(dropping)[0][-1].loss
    assert not dropping.model.training


def test_accumulated_batches_count_as_one_step():
    run = run_tiny(steps=3, grad_accumulation=4)
    assert [step.tokens for step in run.history.steps] == [4 * TOKENS, 8 * TOKENS, 12 * TOKENS]


# Records


def test_validation_stories_are_not_learned_from():
    """So the same training stories give the same losses, whatever is held out."""
    few = replace(STORIES, train=TEXTS[4:6])  # read to their end, several times
    losses = []
    for count in (1, 3):
        stories = replace(few, validation=TEXTS[:count])
        run = train(stories, **TINY | {"batch_size": 8}, steps=8, folder=f"{count} held out")
        losses.append([step.loss for step in run.history.steps])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("steps", "evaluations"), [(10, 5), (7, 3), (3, 10), (1, 1), (22, 22)])
def test_it_is_measured_and_sampled_evenly_and_at_the_end(steps, evaluations):
    history = run_tiny(steps=steps, evaluations=evaluations).history
    due = [
        k for k in range(1, steps + 1) if k * evaluations // steps > (k - 1) * evaluations // steps
    ]
    assert [item.step for item in history.evaluations] == due
    assert due[-1] == steps
    assert len(due) == min(steps, evaluations)


def test_evaluations_and_their_stories_are_of_the_model_as_it_was():
    run = run_tiny(evaluations=1, evaluation_stories=3)
    [score] = run.history.evaluations
    expected = evaluate(run.model, TOKENIZER, STORIES.validation[:3])
    assert score.nats_per_token == pytest.approx(expected.nats_per_token, rel=1e-6)
    assert score.bits_per_byte == pytest.approx(expected.bits_per_byte, rel=1e-6)
    assert (score.step, score.tokens) == (8, 8 * TOKENS)
    assert score.text.startswith("Once upon a time")
    assert len(score.text) > len("Once upon a time")


def test_the_sample_begins_as_the_stories_do():
    chinese = [f"从前，有一只小兔子，它的名字叫第{number}，住在森林里。" for number in range(20)]
    stories = Stories(chinese[4:], chinese[:4], "own", False, Cleaning(20, 0, 0, 0, 0, 20))
    history = train(stories, **TINY | {"steps": 2, "evaluations": 1}).history
    assert history.evaluations[0].text.startswith("从前")


def test_every_step_is_recorded():
    steps = run_tiny(steps=5).history.steps
    assert [step.step for step in steps] == [1, 2, 3, 4, 5]
    assert [step.tokens for step in steps] == [TOKENS * k for k in range(1, 6)]
    assert all(step.grad_norm > 0 for step in steps)
    seconds = [step.seconds for step in steps]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_the_learning_rate_is_that_of_the_middle_of_each_step(steps):
    run = run_tiny(steps=steps, warmup=0.1, final_learning_rate=0.1, learning_rate=0.01)
    middles = (np.arange(steps) + 0.5) / steps
    expected = 0.01 * np.interp(middles, [0, 0.1, 1], [0, 1, 0.1])
    assert run.history.schedule == pytest.approx(expected)


@pytest.mark.parametrize("steps", [4, 20, 60])
def test_over_a_run_the_rate_rises_then_falls_below_where_it_began(steps):
    rates = run_tiny(steps=steps, evaluations=1, learning_rate=0.1).history.schedule
    peak = rates.index(max(rates))
    assert list(rates[: peak + 1]) == sorted(rates[: peak + 1])
    assert list(rates[peak:]) == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < rates[0] <= max(rates) <= 0.1


def test_the_callback_sees_the_history_after_every_step():
    seen = []
    run = run_tiny(callback=lambda history: seen.append((history, len(history.steps))))
    assert [count for _, count in seen] == list(range(1, 9))
    assert all(history == run.history for history, _ in seen)


# Interruptions


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
@pytest.mark.parametrize("stops", [(1,), (4,), (2, 5, 7)])
def test_an_interrupted_run_goes_on_to_the_same_end(budget, stops):
    settings = budget | {"dropout": 0.1, "grad_accumulation": 1 if budget.get("tokens") else 2}
    whole = run_tiny(**settings, folder="whole")
    for step in stops:
        run = run_tiny(**settings, callback=at(step, stop))
        assert not run.finished
        assert len(run.history.steps) == step
        assert record(run)[0] == record(whole)[0][:step]
        assert load_model(run.folder)[0](torch.tensor([[1]])).equal(run.model(torch.tensor([[1]])))
        torch.rand(7)  # what happens in between must not matter
    assert_equal(run_tiny(**settings), whole)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_either_optimizer_goes_on_to_the_same_end(optimizer):
    settings = {"optimizer": optimizer, "learning_rate": 0.01, "weight_decay": 0.1}
    whole = run_tiny(**settings, folder="whole")
    assert not run_tiny(**settings, callback=at(3, stop)).finished
    assert_equal(run_tiny(**settings), whole)


@pytest.mark.parametrize(("step", "kept"), [(1, 0), (2, 0), (5, 4), (8, 4)])
def test_after_a_crash_within_a_step_it_goes_on_from_what_was_kept(step, kept, monkeypatch):
    def crash_within_the_step(*given):
        calls.append(given)
        if len(calls) == step:
            crash()
        return train_step(*given)

    calls = []
    whole = run_tiny(dropout=0.1, folder="whole")
    with monkeypatch.context() as patch:
        patch.setattr("slm.training.loop.train_step", crash_within_the_step)
        with pytest.raises(RuntimeError, match="power cut"):
            run_tiny(dropout=0.1)
    counts = []
    run = run_tiny(dropout=0.1, callback=lambda history: counts.append(len(history.steps)))
    assert counts == list(range(kept + 1, 9))
    assert_equal(run, whole)


@pytest.mark.parametrize("step", [3, 8])
def test_ctrl_c_finishes_the_step_and_gives_the_signal_back(step):
    before = signal.getsignal(signal.SIGINT)
    run = run_tiny(callback=at(step, stop))
    assert len(run.history.steps) == step
    assert run.finished is (step == 8)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_interrupts_at_once(monkeypatch):
    monkeypatch.setattr("slm.training.progress.SAME_SIGNAL_SECONDS", -1.0)  # it need not wait
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_tiny(callback=at(5, lambda: (stop(), stop())))
    assert signal.getsignal(signal.SIGINT) is before
    assert_equal(run_tiny(), run_tiny(folder="whole"))


@pytest.mark.parametrize("error", [crash, stop])
def test_the_signal_is_given_back_however_it_ends(error):
    before = signal.getsignal(signal.SIGINT)
    try:
        run_tiny(callback=at(1, error))
    except RuntimeError:
        assert error is crash
    assert signal.getsignal(signal.SIGINT) is before


def test_training_works_in_another_thread():
    runs, before = [], signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=lambda: runs.append(run_tiny(folder="thread")))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert_equal(runs[0], run_tiny())


# Folders


def test_a_finished_run_is_loaded_and_not_trained_again(capsys):
    first = run_tiny()
    capsys.readouterr()
    second = run_tiny(callback=refuse)
    assert_equal(second, first)
    assert second.history == first.history
    assert not second.model.training
    said = capsys.readouterr().out
    assert str(first.folder) in said
    assert "fresh=True" in said


def test_fresh_trains_anew():
    first, counts = run_tiny(), []
    again = run_tiny(fresh=True, callback=lambda history: counts.append(len(history.steps)))
    assert counts == list(range(1, 9))
    assert_equal(again, first)


def test_fresh_replaces_a_run_with_other_settings():
    run_tiny(folder="mine", dropout=0.1)
    run = run_tiny(folder="mine", fresh=True)
    assert_equal(run_tiny(folder="mine", callback=refuse), run)


def test_settings_stories_and_tokenizer_each_decide_the_default_folder():
    fewer = replace(STORIES, train=STORIES.train[1:])
    moved = replace(STORIES, train=TEXTS[4:39], validation=[TEXTS[39], *TEXTS[:4]])
    other = train_tokenizer(TEXTS, 300)
    quick = TINY | {"steps": 1, "evaluations": 1}
    runs = [
        train(STORIES, **quick),
        train(STORIES, **quick | {"seed": 1}),
        train(STORIES, **quick | {"n_layers": 2}),
        train(STORIES, **quick | {"tokenizer": other}),
        train(fewer, **quick),
        train(moved, **quick),
    ]
    assert len({run.folder for run in runs}) == len(runs)
    assert all(run.folder.parent == Path("runs") for run in runs)
    assert train(STORIES, **quick, callback=refuse).folder == runs[0].folder


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dropout": 0.1}, ["dropout"]),
        ({"d_model": 64}, ["d_model"]),
        ({"learning_rate": 0.02, "seed": 3}, ["learning_rate", "seed"]),
        ({"tokenizer": train_tokenizer(TEXTS, 300)}, ["tokenizer", "vocab_size"]),
        ({"tokens": 640, "dropout": 0.1}, ["steps", "tokens", "dropout"]),
        ({"steps": 3}, ["steps"]),
        ({"tokens": 2 * TOKENS}, ["steps", "tokens"]),
        ({"schedule": (0.01,) * 9}, ["steps", "schedule"]),
        ({"distillation": 0.3}, ["distillation"]),
    ],
)
def test_a_folder_with_another_run_is_refused_and_left_alone(settings, named):
    run_tiny(folder="mine", callback=at(3, stop))
    before = {path: path.read_bytes() for path in Path("mine").iterdir()}
    with pytest.raises(ValueError, match="mine") as refused:
        run_tiny(folder="mine", **settings)
    words = str(refused.value).replace(",", "").replace(":", "").split()
    assert all(name in words for name in named)
    assert {path: path.read_bytes() for path in Path("mine").iterdir()} == before


@pytest.mark.parametrize("longer", [{"steps": 12}, {"tokens": 12 * TOKENS}, {"minutes": 60}])
@pytest.mark.parametrize("interrupted", [True, False])
def test_a_larger_budget_takes_a_run_further(longer, interrupted):
    first = run_tiny(folder="mine", callback=at(5, stop) if interrupted else None)
    done = len(first.history.steps)
    run = run_tiny(folder="mine", callback=at(12, stop), **longer)
    assert record(run)[0][:done] == record(first)[0]
    assert len(run.history.steps) == 12
    rates = run.history.schedule
    if "minutes" in longer:
        assert not run.finished
    else:  # its two evaluations are due after 6 and after 12 steps
        assert rates[done:] == run_tiny(steps=12, folder="other").history.schedule[done:]
        assert run.finished
        before = len(first.history.evaluations)
        assert [look.step for look in run.history.evaluations[before:]] == [6, 12][done > 6 :]
        assert_equal(run_tiny(folder="mine", callback=refuse, **longer), run)


def test_other_stories_in_the_same_folder_are_refused():
    run_tiny(folder="mine")
    with pytest.raises(ValueError, match="stories"):
        train(replace(STORIES, train=STORIES.train[1:]), **TINY, steps=8, folder="mine")


@pytest.mark.parametrize("settings", [{}, {"tie_embeddings": False, "n_kv_heads": 1}])
def test_the_folder_holds_the_model_for_slm_and_for_transformers(settings):
    run = run_tiny(**settings)
    model, tokenizer = load_model(run.folder)
    ids = torch.tensor([[TOKENIZER.eot_id, *TOKENIZER.encode("Once upon a time")]])
    expected = run.model(ids)
    assert torch.equal(model(ids), expected)
    assert tokenizer.digest == run.tokenizer.digest == TOKENIZER.digest
    llama = LlamaForCausalLM.from_pretrained(run.folder).eval()
    torch.testing.assert_close(llama(ids).logits, expected, rtol=1e-4, atol=1e-4)
    encode = AutoTokenizer.from_pretrained(run.folder).encode
    assert encode("Once upon a time", add_special_tokens=False) == ids[0, 1:].tolist()


@pytest.mark.parametrize("callback", [None, at(5, stop)])
def test_the_history_stands_beside_the_model(callback):
    run = run_tiny(callback=callback)
    data = json.loads((run.folder / "history.json").read_text(encoding="utf-8"))
    assert data == asdict(run.history)


def test_nothing_half_written_is_left():
    assert [path.name for path in run_tiny().folder.rglob("*") if ".part" in path.name] == []


# Budgets


@pytest.mark.parametrize("tokens", [1, TOKENS, TOKENS + 1, 5 * TOKENS - 1])
def test_a_budget_of_tokens_takes_the_steps_that_read_them(tokens):
    run = run_tiny(tokens=tokens)
    assert len(run.history.steps) == math.ceil(tokens / TOKENS)
    assert run.finished


class Clock:
    """Time goes by only after steps: two seconds each, and ten more after an evaluation."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        self.evaluations = 0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def __call__(self, history: History) -> None:
        self.now += 2.0
        if len(history.evaluations) > self.evaluations:
            self.now += 10.0
        self.evaluations = len(history.evaluations)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def test_a_budget_of_minutes_ends_when_it_is_spent_evaluations_included(clock):
    run = run_tiny(minutes=1.0, evaluations=2, warmup=0.2, callback=clock)
    seconds = [step.seconds for step in run.history.steps]
    assert seconds == [2.0 * k for k in range(16)] + [42.0 + 2 * k for k in range(10)]
    assert [item.step for item in run.history.evaluations] == [16, 26]
    assert run.finished
    spent = np.array([0.001, *(max(second / 60, 0.001) for second in seconds[:-1])])
    expected = run.config.learning_rate * np.interp(spent, [0, 0.2, 1], [0, 1, 0])
    assert run.history.schedule == pytest.approx(expected)


def test_a_run_by_the_clock_can_be_replayed_by_its_schedule(clock):
    settings = {"evaluations": 1, "dropout": 0.1}
    run = run_tiny(minutes=0.5, **settings, callback=clock)
    assert len(run.history.steps) == 16
    replayed = run_tiny(schedule=run.history.schedule, **settings, callback=clock)
    assert_equal(replayed, run)
    assert replayed.folder != run.folder
    assert_equal(run_tiny(schedule=list(run.history.schedule), **settings), run)


def test_pauses_are_not_counted_as_time(clock):
    def stop_in_the_fourth(history: History) -> None:
        clock(history)
        if len(history.steps) == 4:
            stop()

    assert not run_tiny(minutes=0.5, callback=stop_in_the_fourth).finished
    clock.now += 10_000
    resumed = run_tiny(minutes=0.5, callback=clock)
    assert [step.seconds for step in resumed.history.steps[:7]] == [0, 2, 4, 6, 6, 8, 10]


def test_a_clock_too_coarse_to_time_a_step_does_no_harm(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    assert run_tiny(steps=2).finished


def test_nothing_depends_on_a_progress_bar():
    """TQDM_DISABLE is read at import: another process."""
    script = """if True:
        from tests.training.test_loop import run_tiny
        run = run_tiny(steps=5)
        print(len(run.history.steps), run.finished, len(run.history.evaluations))
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TQDM_DISABLE": "1", "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.splitlines()[-1] == "5 True 2", done.stderr
    assert "gone" not in done.stdout + done.stderr  # the bar itself is not drawn


# Settings


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_configured(preset):
    model, training = configure(preset)
    assert isinstance(model, ModelConfig)
    assert isinstance(training, TrainConfig)
    values = asdict(model) | asdict(training)
    assert all(values[name] == value for name, value in PRESETS[preset].items())
    assert configure(preset, steps=7)[1] == replace(training, steps=7, tokens=None, minutes=None)


GIVEN = {
    "vocab_size": 300,
    "context_length": 17,
    "n_layers": 3,
    "n_heads": 8,
    "n_kv_heads": 2,
    "d_model": 160,
    "d_ff": 100,
    "rope_theta": 5e5,
    "norm_eps": 1e-6,
    "tie_embeddings": False,
    "dropout": 0.2,
    "steps": 3,
    "tokens": 1000,
    "minutes": 2.5,
    "schedule": (0.1, 0.2),
    "batch_size": 3,
    "grad_accumulation": 2,
    "optimizer": "adamw",
    "learning_rate": 0.5,
    "warmup": 0.5,
    "final_learning_rate": 0.5,
    "weight_decay": 0.5,
    "grad_clip": 2.0,
    "precision": "float32",
    "device": "cpu",
    "compile": True,
    "evaluations": 3,
    "evaluation_stories": 7,
    "seed": 11,
    "teachers": "one,another",
    "distillation": 0.3,
}


def test_there_is_a_value_to_try_for_every_setting():
    assert set(GIVEN) == {item.name for item in (*fields(ModelConfig), *fields(TrainConfig))}


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_setting_can_be_given_directly(preset, name):
    if name == "n_kv_heads":
        configs = configure(preset, n_kv_heads=2, n_heads=8)
    else:
        configs = configure(preset, **{name: GIVEN[name]})
    assert (asdict(configs[0]) | asdict(configs[1]))[name] == GIVEN[name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 0.1}, "learning_rat.*did you mean 'learning_rate'"),
        ({"n_layer": 2}, "n_layer.*did you mean 'n_layers'"),
        ({"zzz": 1}, "zzz.*batch_size"),
        ({"preset": "huge"}, "preset.*tiny, small, full.*huge"),
        ({"steps": 5, "minutes": 1.0}, "steps and minutes"),
        ({"batch_size": 0}, "batch_size"),
        ({"n_heads": 3}, "n_heads"),
        ({"dropout": 2}, "dropout"),
        ({"vocab_size": 100}, "vocab_size|tokenizer"),
        ({"vocab_size": 5000}, "vocab_size|tokenizer"),
    ],
)
def test_a_mistaken_setting_is_refused_before_anything_is_trained(settings, message):
    with pytest.raises(ValueError, match=message):
        run_tiny(**settings, callback=refuse)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "stories",
    [
        replace(STORIES, validation=[]),
        replace(STORIES, train=[]),
        TEXTS,
        None,
    ],
)
def test_stories_must_be_there_to_train_on_and_to_validate_on(stories):
    with pytest.raises(ValueError, match="load_stories"):
        train(stories, **TINY, steps=2)


def test_a_tokenizer_can_be_named_or_loaded():
    settings = {"steps": 1, "evaluations": 1}
    named = run_tiny(tokenizer="stories", **settings)
    assert named.model.config.vocab_size == named.tokenizer.vocab_size == 4096
    loaded = run_tiny(tokenizer=load_tokenizer("stories"), **settings)
    assert loaded.folder == named.folder


@pytest.fixture(scope="module")
def llama_tokenizer(tmp_path_factory):
    """Of another kind than ours: it splits otherwise, and has a token before each text."""
    folder = tmp_path_factory.mktemp("llama")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    inner.decoder = tokenizers.decoders.Metaspace()
    specials = ["<unk>", "<s>", "</s>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=specials)
    inner.train_from_iterator(TEXTS, trainer)
    inner.save(str(folder / "tokenizer.json"))
    sizes = {"vocab_size": inner.get_vocab_size(), "bos_token_id": 1, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    return slm.tokenizer.pretrained.PretrainedTokenizer(folder)


def test_the_tokenizer_of_another_model_can_be_given(llama_tokenizer):
    run = run_tiny(tokenizer=llama_tokenizer, steps=3)
    assert run.finished
    assert run.model.config.vocab_size == llama_tokenizer.vocab_size
    model, tokenizer = load_model(run.folder)
    assert tokenizer.encode(TEXTS[0]) == llama_tokenizer.encode(TEXTS[0])
    ids = torch.tensor([[1, *tokenizer.encode(TEXTS[0])[:20]]])
    assert torch.equal(model(ids), run.model(ids))
    assert_equal(run_tiny(tokenizer=llama_tokenizer, steps=3, callback=refuse), run)


@pytest.mark.parametrize("tokenizer", [None, 5, {}, [1], object(), b"stories", Path])
def test_what_is_no_tokenizer_is_refused_in_one_sentence(tokenizer):
    with pytest.raises(ValueError, match=r"^tokenizer must be a name, a folder, or .*\.$"):
        run_tiny(tokenizer=tokenizer)


def test_hugging_faces_own_tokenizer_object_is_refused_in_one_sentence(tmp_path):
    TOKENIZER.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^tokenizer must be"):
        run_tiny(tokenizer=theirs)


def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_do():
    seen = []
    with pytest.raises(ValueError, match="learning_rate"):
        run_tiny(learning_rate=1e30, callback=lambda h: seen.append(h.steps[-1].loss))
    assert all(map(math.isfinite, seen))
    assert len(seen) < 8


def test_a_step_in_micro_batches_learns_what_it_would_in_one(monkeypatch):
    whole = run_tiny(batch_size=6)
    pieces = run_with_memory_for(2, monkeypatch, batch_size=6, fresh=True)
    losses = [[step.loss for step in run.history.steps] for run in (whole, pieces)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0] != losses[1]  # another order of sums
    assert pieces.history.steps[-1].tokens == whole.history.steps[-1].tokens == 8 * 6 * 32


def run_with_memory_for(rows: int, monkeypatch, **settings) -> Run:
    """Train where so many rows fit into memory at once."""
    sizes = {name: value for name, value in TINY.items() if name != "tokenizer"}
    model, config = configure(**sizes, steps=8, vocab_size=400)
    free = (fixed_bytes(model) + rows * bytes_per_row(config, model, "cpu")) / 0.8 + 1
    monkeypatch.setattr("slm.hardware.memory.available_memory", lambda device: int(free))
    return run_tiny(**settings)
