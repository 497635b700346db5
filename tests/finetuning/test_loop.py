import json
import math
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM

import slm
from slm.batches import pack
from slm.checkpoint.saving import save_model_as
from slm.finetuning.loop import finetune
from slm.finetuning.own_stories import own_stories, split_long
from slm.finetuning.replay import ReplayBatches
from slm.hardware.threads import AdaptiveThreads
from slm.settings import FineTuneConfig
from slm.stories.cleaning import Cleaning, Stories
from slm.stories.practice import practice_stories
from slm.training import progress as progress_bar
from slm.training.step import DivergedError, train_step

ROOT = str(Path(slm.__file__).parents[1])
TALES = Path(slm.__file__).parent / "assets" / "lighthouse.txt"
MINE = [
    f"The robot number {i} said bleep, and bleep, and went to turn the light." for i in range(30)
]


@pytest.fixture(scope="module")
def ordinary():
    texts = practice_stories(60)
    return Stories(texts[:50], texts[50:], "practice", True, Cleaning(60, 0, 0, 0, 0, 60))


@pytest.fixture
def tune(random_model, tokenizer, ordinary):
    def run(stories=MINE, **settings):
        how = dict(ordinary=ordinary, epochs=2, learning_rate=0.01, device="cpu")
        return finetune(random_model(), tokenizer, stories, **how | settings)

    return run


def test_it_learns_your_stories_and_the_given_model_stays(tune, random_model):
    done = tune(epochs=6)
    assert done.after["yours"].nats_per_token < done.before["yours"].nats_per_token - 0.5
    again = slm.evaluate(random_model(), done.tokenizer, practice_stories(60)[50:])
    assert done.before["ordinary"].nats_per_token == pytest.approx(again.nats_per_token)
    assert not done.model.training
    assert "your held-out stories" in str(done) and "before: " in str(done)


def test_the_same_seed_gives_the_same_model_and_another_seed_another(tune):
    one, two, other = tune(), tune(), tune(seed=1)
    assert one.epochs == two.epochs != other.epochs
    for name, weight in one.model.state_dict().items():
        assert torch.equal(two.model.state_dict()[name], weight)


def test_the_best_epoch_is_kept_and_it_stops_when_nothing_gets_better(tune, capsys):
    done = tune(epochs=30, patience=3, learning_rate=0.05)
    best = min(done.epochs)
    assert done.epochs[0] > best < done.epochs[-1]  # it got better, then worse
    assert len(done.epochs) == done.epochs.index(best) + 1 + 3 < 30
    assert done.after["yours"].nats_per_token == pytest.approx(best, rel=1e-5)
    said = f"Early stopping: epoch {done.epochs.index(best) + 1} did best on the held-out stories."
    assert said in capsys.readouterr().out


def test_what_makes_it_only_worse_is_not_kept(tune, ordinary):
    done = tune(epochs=3, learning_rate=0.02)
    how = dict(ordinary=ordinary, epochs=2, learning_rate=5.0, device="cpu")
    worse = finetune(done.model, done.tokenizer, MINE, **how)
    assert min(worse.epochs) > worse.before["yours"].nats_per_token
    for name, weight in done.model.state_dict().items():
        assert torch.equal(worse.model.state_dict()[name], weight)


def test_the_callback_sees_every_step(tune):
    seen = []
    done = tune(epochs=2, patience=9, callback=lambda share, epochs: seen.append((share, *epochs)))
    assert [share for share, *_ in seen] == [i / len(seen) for i in range(1, len(seen) + 1)]
    assert seen[-1][1:] == tuple(done.epochs[:1])


def test_ctrl_c_finishes_the_step_and_keeps_the_best_so_far(tune, capsys):
    progresses = []

    def interrupt(progress, epochs):
        progresses.append(progress)
        if len(progresses) == 2:
            signal.raise_signal(signal.SIGINT)

    done = tune(callback=interrupt)
    assert len(progresses) == 2
    assert done.epochs == []
    assert done.after["yours"].nats_per_token == pytest.approx(done.before["yours"].nats_per_token)
    assert "Stopped after step 2: the model as it was is kept." in capsys.readouterr().out


def test_a_run_that_is_stopped_before_its_first_epoch_replaces_no_model(tune, tmp_path, capsys):
    tune(folder=tmp_path / "mine")
    before = (tmp_path / "mine" / "model.safetensors").read_bytes()
    done = tune(
        folder=tmp_path / "mine",
        seed=1,
        callback=lambda *_: signal.raise_signal(signal.SIGINT),
    )
    assert done.folder is None
    assert "No epoch is complete: nothing was saved" in capsys.readouterr().out
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows")
def test_a_signal_after_the_last_step_does_not_keep_the_model_from_being_saved(
    tune, tmp_path, monkeypatch
):
    def save_while_signals_come(*arguments):
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        return save_model_as(*arguments)

    monkeypatch.setattr("slm.finetuning.model_folder.save_model_as", save_while_signals_come)
    done = tune(folder=tmp_path / "mine")
    again, _ = slm.load_model(tmp_path / "mine")
    for name, weight in done.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)


def test_a_callback_that_returns_true_stops_it_and_the_best_so_far_is_kept(tune, capsys):
    shares = []

    def stop_after_two_epochs(share, epochs):
        shares.append(share)
        return len(epochs) == 2

    done = tune(epochs=9, patience=9, callback=stop_after_two_epochs)
    assert len(done.epochs) < 9
    assert shares[-1] < 1
    assert done.after["yours"].nats_per_token == pytest.approx(min(done.epochs))
    assert "is kept." in capsys.readouterr().out


def test_the_steps_are_the_same_without_a_progress_bar(tune, monkeypatch, capsys):
    steps = []
    with_bar = tune(callback=lambda progress, epochs: steps.append(progress))
    monkeypatch.setattr(progress_bar, "tqdm", partial(tqdm, disable=True))  # as TQDM_DISABLE=1
    silent_steps = []
    without_bar = tune(callback=lambda progress, epochs: silent_steps.append(progress))
    assert without_bar.epochs == with_bar.epochs
    assert silent_steps == steps
    assert steps[-1] == 1.0


FINE_TUNING = """
import json
import torch
from slm.finetuning import finetune
from slm.model import Transformer
from slm.settings import ModelConfig
from slm.stories import Cleaning, Stories
from slm.stories.practice import practice_stories
from slm.tokenizer import train_tokenizer

torch.set_num_threads(1)
texts = practice_stories(30)
ordinary = Stories(texts[:25], texts[25:], "practice", True, Cleaning(30, 0, 0, 0, 0, 30))
tokenizer = train_tokenizer(texts, 280)
model = Transformer(ModelConfig(280, 32, n_layers=1, n_heads=2, d_model=32))
steps = []
done = finetune(
    model,
    tokenizer,
    texts[:20],
    ordinary=ordinary,
    epochs=2,
    device="cpu",
    callback=lambda progress, scores: steps.append(progress),
)
print(json.dumps([done.epochs, steps]))
"""


def test_with_tqdm_disable_1_it_takes_the_same_steps_and_ends():
    """The variable is read at import: another process."""
    with_bar = os.environ | {"PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
    with_bar.pop("TQDM_DISABLE", None)
    found = []
    for environment in (with_bar, with_bar | {"TQDM_DISABLE": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", FINE_TUNING],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        assert ("gone" in done.stdout) == (environment is with_bar)  # a word of the bar
        found.append(json.loads(done.stdout.splitlines()[-1]))
    epochs, steps = found[0]
    assert found[1] == found[0]
    assert len(epochs) == 2
    assert steps[-1] == 1.0


def test_float16_has_its_gradients_scaled(tune, monkeypatch):
    def spy(*args):
        scalers.append(args[-1])
        return train_step(*args)

    scalers = []
    monkeypatch.setattr("slm.training.step.pick_precision", lambda *_: torch.float16)
    monkeypatch.setattr("slm.training.loop.train_step", spy)
    done = tune(epochs=1)
    assert done.after["yours"].nats_per_token < done.before["yours"].nats_per_token
    assert scalers[0].is_enabled()
    assert all(scaler is scalers[0] for scaler in scalers)


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_an_error_in_a_callback_costs_no_epoch_and_reaches_the_user(tune, tmp_path, lora_rank):
    def fail_after_two_epochs(progress, epochs):
        if len(epochs) == 2:
            raise InterruptedError("in the plot")

    if lora_rank:
        pytest.importorskip("peft")
    rank = {"lora_rank": lora_rank}
    with pytest.raises(InterruptedError, match="in the plot"):
        tune(epochs=9, folder=tmp_path / "mine", callback=fail_after_two_epochs, **rank)
    saved, _ = slm.load_model(tmp_path / "mine")
    stopped = tune(epochs=9, callback=lambda progress, epochs: len(epochs) == 2, **rank)
    for name, weight in stopped.model.state_dict().items():
        assert torch.equal(saved.state_dict()[name], weight)


def test_an_error_before_the_first_epoch_ends_leaves_no_folder(tune, tmp_path):
    def fail(progress, epochs):
        raise InterruptedError("in the plot")

    with pytest.raises(InterruptedError):
        tune(folder=tmp_path / "mine", callback=fail)
    assert not (tmp_path / "mine").exists()


def test_a_cache_that_cannot_be_written_is_said_once(tune, tmp_path, monkeypatch, capsys):
    """Though your own stories and ordinary ones would both be cached."""
    monkeypatch.setenv("SLM_CACHE", str(tmp_path / "a file"))
    (tmp_path / "a file").write_text("no folder")
    tune(epochs=1)
    assert capsys.readouterr().out.count("not cached for next time") == 1


@pytest.mark.parametrize("good_epochs", [0, 2])
def test_a_loss_that_becomes_nan_does_not_cost_the_best_epoch(
    tune, monkeypatch, capsys, good_epochs
):
    def diverge(*args):
        if len(losses) >= good_epochs * steps_per_epoch:
            raise DivergedError("The loss became nan: train with a lower learning_rate.")
        loss, norm = train_step(*args)
        losses.append(loss)
        return loss, norm

    losses = []
    progresses = []
    tune(epochs=1, callback=lambda progress, _: progresses.append(progress))
    steps_per_epoch = len(progresses)
    monkeypatch.setattr("slm.training.loop.train_step", diverge)
    if good_epochs == 0:  # there is nothing to keep
        with pytest.raises(ValueError, match="loss became nan"):
            tune(epochs=4)
        return
    done = tune(epochs=4)
    assert len(done.epochs) == good_epochs
    assert done.after["yours"].nats_per_token == pytest.approx(min(done.epochs), rel=1e-5)
    assert done.after["yours"].nats_per_token < done.before["yours"].nats_per_token
    said = "The loss became nan: train with a lower learning_rate. Epoch 2 is kept."
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "meant"), [("lr", "learning_rate"), ("num_train_epochs", "epochs"), ("rank", None)]
)
def test_an_unknown_setting_is_refused_and_ours_suggested(tune, name, meant):
    advice = f"did you mean '{meant}'" if meant else "there are|did you mean"
    with pytest.raises(ValueError, match=f"no setting '{name}': {advice}"):
        tune(**{name: 1})


def test_a_home_folder_that_is_not_there_is_named(tune):
    with pytest.raises(ValueError, match="~nobody-here/mine cannot be found"):
        tune(folder="~nobody-here/mine")


def test_what_does_not_fit_into_memory_is_read_in_parts_of_the_same_step(tune, monkeypatch):
    whole = tune()
    monkeypatch.setattr("slm.finetuning.loop.rows_at_once", lambda *_: 2)
    in_parts = tune()
    assert in_parts.epochs == pytest.approx(whole.epochs, rel=0.02)


def test_replayed_stories_are_forgotten_less(tune):
    how = dict(epochs=6, patience=6, learning_rate=0.02)
    with_them, without = tune(replay=0.5, **how), tune(replay=0.0, **how)
    assert (
        with_them.after["ordinary"].nats_per_token < without.after["ordinary"].nats_per_token - 0.1
    )


def test_the_same_seed_gives_the_same_lora_adapter(tune):
    pytest.importorskip("peft")
    torch.manual_seed(1)
    one = tune(lora_rank=2)
    torch.manual_seed(2)
    two = tune(lora_rank=2)
    for name, weight in one.model.state_dict().items():
        assert torch.equal(two.model.state_dict()[name], weight)


def test_the_folder_is_a_model_like_any_other(tune, tmp_path):
    done = tune(folder=tmp_path / "mine")
    assert done.folder == tmp_path / "mine"
    again, _ = slm.load_model(tmp_path / "mine")
    for name, weight in done.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)


def test_a_lora_adapter_is_loaded_by_peft_and_merges_to_the_same_model(
    tune, random_model, tokenizer, tmp_path
):
    peft = pytest.importorskip("peft")
    done = tune(lora_rank=4, folder=tmp_path / "mine", epochs=4)
    assert done.after["yours"].nats_per_token < done.before["yours"].nats_per_token
    base = slm.save_model(tmp_path / "base", random_model(), tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(base)
    theirs = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "mine" / "adapter")).eval()
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        expected = done.model(ids)
        torch.testing.assert_close(theirs(ids).logits, expected, rtol=1e-3, atol=1e-3)
        merged = theirs.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-3, atol=1e-3)
        assert (random_model()(ids) - expected).abs().max() > 0.01
    names = done.model.state_dict().keys()
    assert names == random_model().state_dict().keys()


def test_without_peft_a_sentence_says_how_to_get_it(tune, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match="pip install peft"):
        tune(lora_rank=4)


def test_the_tales_of_the_lighthouse_are_many_and_in_one_voice(tokenizer):
    mine, held = own_stories(TALES, tokenizer, 10_000, held_out=0.1, seed=0)
    stories = mine + held
    assert len(stories) >= 60
    assert len(set(stories)) == len(stories)
    assert all(story.endswith("And the light went round and round.") for story in stories)
    assert sum("leep" in story for story in stories) > 0.9 * len(stories)


@pytest.mark.parametrize("most", [8, 30, 1000])
def test_long_texts_are_cut_between_sentences_and_nothing_is_lost(tokenizer, most):
    text = 'One day it rained. "Oh no!" said Tim... Then it stopped? Yes! ' * 3 + "No end"
    parts = split_long(text, tokenizer, most)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(len(tokenizer.encode(part)) <= most for part in parts)
    if most == 30:
        assert len(parts) > 1
        assert all(part[-1] in '.!?"' for part in parts[:-1])
    if most == 1000:
        assert parts == [text.strip()]


def test_a_sentence_longer_than_the_context_is_cut_between_words(tokenizer):
    parts = split_long("bleep " * 100, tokenizer, 20)
    assert len(parts) > 5
    assert set(" ".join(parts).split()) == {"bleep"}
    assert max(len(tokenizer.encode(part)) for part in parts) <= 20


def test_held_out_stories_are_not_learned_from(tokenizer):
    mine, held = own_stories(MINE, tokenizer, 1000, held_out=0.2, seed=3)
    assert len(held) == 6
    assert set(mine) | set(held) == set(MINE)
    assert not set(mine) & set(held)


@pytest.mark.parametrize(
    ("stories", "settings", "error", "sentence"),
    [
        ([], {}, ValueError, "Too few stories"),
        (["short"] * 20, {}, ValueError, "Too few stories"),
        (MINE[:1], {}, ValueError, "Too few stories"),
        ("nowhere.txt", {}, FileNotFoundError, "no file"),
        (MINE, {"epochs": 0}, ValueError, "epochs must be"),
        (MINE, {"learning_rate": "fast"}, ValueError, "learning_rate must be"),
        (MINE, {"replay": 1.0}, ValueError, "replay must be"),
        (MINE, {"held_out": 0.9}, ValueError, "held_out must be"),
        (MINE, {"lora_rank": 0}, ValueError, "lora_rank must be"),
    ],
)
def test_what_makes_no_sense_is_refused(tune, stories, settings, error, sentence):
    with pytest.raises(error, match=sentence):
        tune(stories, **settings)


def test_a_quantized_model_is_refused_with_what_to_do_instead(random_model, tokenizer):
    small = slm.quantize(random_model())
    with pytest.raises(ValueError, match="fine-tune the one it was made from"):
        slm.finetune(small, tokenizer, ["A cat sat.", "A dog ran."])


def test_an_adapter_names_the_model_that_it_belongs_to(random_model, tokenizer, ordinary, tmp_path):
    pytest.importorskip("peft")
    base = slm.save_model(tmp_path / "base", random_model(), tokenizer)
    model, _ = slm.load_model(base)
    how = dict(ordinary=ordinary, epochs=1, lora_rank=2, device="cpu")
    finetune(model, tokenizer, MINE, folder=tmp_path / "mine", **how)
    saved = (tmp_path / "mine" / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
    assert json.loads(saved)["base_model_name_or_path"] == str(base.resolve())


# Folders


def test_a_folder_that_holds_something_else_is_refused_before_training(
    tune, tmp_path, random_model, tokenizer, ordinary
):
    slm.save_model(tmp_path / "model", random_model(), tokenizer)
    size = dict(context_length=16, n_layers=1, d_model=16, batch_size=2, steps=1, evaluations=1)
    slm.train(ordinary, folder=tmp_path / "run", device="cpu", **size)
    steps = []
    for name in ("model", "run"):
        before = {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        with pytest.raises(ValueError, match=f"{name} already holds a .*: name another folder"):
            tune(folder=tmp_path / name, callback=lambda *_: steps.append(1))
        after = {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        assert after == before
    assert steps == []


def test_a_fine_tuned_model_is_replaced_but_not_without_a_word(tune, tmp_path, capsys):
    tune(folder=tmp_path / "mine")
    assert "already" not in capsys.readouterr().out
    tune(folder=tmp_path / "mine", seed=1)
    assert "mine holds a fine-tuned model already: the new one will replace it." in (
        capsys.readouterr().out
    )


def test_a_fine_tuned_model_of_another_shape_is_not_replaced(
    tune, tmp_path, random_model, tokenizer, ordinary
):
    tune(folder=tmp_path / "mine")
    before = {file.name: file.read_bytes() for file in (tmp_path / "mine").iterdir()}
    larger = random_model(d_model=64)
    how = dict(ordinary=ordinary, epochs=1, device="cpu", folder=tmp_path / "mine")
    with pytest.raises(ValueError, match=r"mine already holds another model \(d_model is 32 there"):
        finetune(larger, tokenizer, MINE, callback=refuse, **how)
    assert {file.name: file.read_bytes() for file in (tmp_path / "mine").iterdir()} == before


def refuse(*_):
    raise AssertionError("this must not be called")


def test_two_fine_tunings_do_not_share_a_folder(tune, tmp_path, capsys):
    said = []

    def meanwhile():
        try:
            tune(folder=tmp_path / "mine", callback=refuse)
        except ValueError as error:
            said.append(str(error))

    def start(progress, epochs):
        if not said:
            thread = threading.Thread(target=meanwhile)
            thread.start()
            thread.join()

    done = tune(folder=tmp_path / "mine", callback=start)
    assert len(said) == 1
    assert said[0].startswith(f"Another process is training in {tmp_path / 'mine'}: ")
    assert "replace" not in capsys.readouterr().out
    assert done.folder == tmp_path / "mine"
    assert tune(folder=tmp_path / "mine").folder == done.folder  # and it is free again


def test_an_adapter_does_not_outlive_the_model_that_it_belongs_to(tune, tmp_path):
    pytest.importorskip("peft")
    tune(folder=tmp_path / "mine", lora_rank=2)
    assert (tmp_path / "mine" / "adapter" / "adapter_model.safetensors").exists()
    tune(folder=tmp_path / "mine")
    assert not (tmp_path / "mine" / "adapter").exists()


def test_threads_step_back_while_other_programs_compute(tune, monkeypatch):
    """As in `slm.train`; how many there are is tested with AdaptiveThreads itself."""
    steps = []
    monkeypatch.setattr(AdaptiveThreads, "__call__", lambda self, *_: steps.append("adapted"))
    tune(callback=lambda *_: steps.append("step"))
    assert steps == ["adapted", "step"] * (len(steps) // 2)
    assert len(steps) > 4


def test_an_epoch_reads_the_beginning_of_each_story_too(tokenizer):
    config = FineTuneConfig(batch_size=1, replay=0)
    one_token = ReplayBatches(MINE, MINE, tokenizer, 16, config)
    tokens = len(pack(MINE, tokenizer))
    assert one_token.steps_per_epoch == math.ceil(tokens / 16)
    two_tokens = SimpleNamespace(
        bos_id=7,
        dtype=tokenizer.dtype,
        digest="d",
        eot_id=tokenizer.eot_id,
        encode_many=tokenizer.encode_many,
    )
    batches = ReplayBatches(MINE, MINE, two_tokens, 16, config)
    assert batches.steps_per_epoch == math.ceil((tokens + len(MINE)) / 16)


def test_a_folder_that_cannot_be_written_is_found_out_before_training(tune, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    steps = []
    with pytest.raises(OSError, match="file"):
        tune(folder=tmp_path / "file" / "mine", callback=lambda *_: steps.append(1))
    assert steps == []


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_a_model_that_cannot_be_saved_is_not_lost(tune, tmp_path, capsys, lora_rank):
    if lora_rank:
        pytest.importorskip("peft")

    def put_something_in_the_way(progress, epochs):
        (tmp_path / "mine" / "model.safetensors").mkdir(exist_ok=True)

    done = tune(folder=tmp_path / "mine", lora_rank=lora_rank, callback=put_something_in_the_way)
    assert done.folder is None
    assert done.after["yours"].nats_per_token < done.before["yours"].nats_per_token
    said = capsys.readouterr().out
    assert f"could not be saved in {tmp_path / 'mine'}. " in said
    assert ".part" not in said
    slm.save_model(tmp_path / "elsewhere", done.model, done.tokenizer)


def test_a_tilde_is_the_home_folder(tune, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert tune(folder="~/mine").folder == tmp_path / "mine"
    assert (tmp_path / "mine" / "model.safetensors").exists()


# Stories of every kind


@pytest.mark.parametrize(
    "stories",
    [
        [{"text": text, "id": number} for number, text in enumerate(MINE)],
        {"story": MINE},
        Stories(MINE[2:], MINE[:2], "mine", False, Cleaning(30, 0, 0, 0, 0, 30)),
        (text for text in MINE),
    ],
)
def test_it_is_plain_what_is_meant(tokenizer, stories):
    mine, held = own_stories(stories, tokenizer, 1000, held_out=0.2, seed=3)
    assert {*mine, *held} == {*MINE}


@pytest.mark.parametrize(
    ("stories", "sentence"),
    [
        ([*MINE, float("nan")], r"number 31 of the stories is nan \(float\), not a text"),
        ([None, *MINE], r"number 1 of the stories is None \(NoneType\), not a text"),
        ([*MINE, {"text": MINE[0]}], "number 31 of the stories is a dict, not a text"),
        ([{"a": MINE[0], "b": MINE[1]}], "call the one with the stories 'text'"),
        (5, r"not 5 \(int\)"),
        ([b"bytes"], "number 1 of the stories is b'bytes'"),
    ],
)
def test_what_is_no_text_is_named(tune, stories, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        tune(stories)
    assert "\n" not in str(caught.value)


SCRIPTS = {
    "Chinese": "从前有一只小兔子。它住在森林里！有一天，“你好吗？”它问。小猫说：「我很好。」",
    "Japanese": "むかしむかし、おじいさんがいた。山へ行った！「こんにちは。」と言いました。",
    "Hindi": "एक समय की बात है। एक राजा था। वह बहुत दयालु था। सब खुश थे।",
    "Arabic": "كان هناك قط صغير. ماذا حدث؟ ذهب إلى البيت! نام القط.",
    "Urdu": "ایک بلی تھی۔ وہ گھر گئی۔ وہ سو گئی۔",
    "Thai, which has no sentence marks": "กาลครั้งหนึ่งนานมาแล้วมีแมวตัวหนึ่งอาศัยอยู่ในบ้านหลังเล็กๆริมทะเล",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_long_texts_of_every_script_are_cut_into_short_parts(tokenizer, script):
    text = SCRIPTS[script] * 5
    parts = split_long(text, tokenizer, 150)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(len(tokenizer.encode(part)) <= 150 for part in parts)
    if "no sentence marks" not in script:
        assert all(part[-1] in "。！？」।.!؟۔”" for part in parts)
        assert all(part[0] not in "」”" for part in parts)


def test_the_samples_begin_as_ordinary_stories_do(random_model, tokenizer):
    chinese = [f"从前，有一只小兔子，它的名字叫第{number}，住在森林里。" for number in range(20)]
    ordinary = Stories(chinese[4:], chinese[:4], "own", False, Cleaning(20, 0, 0, 0, 0, 20))
    how = dict(ordinary=ordinary, epochs=1, device="cpu")
    tuned = finetune(random_model(), tokenizer, MINE, **how)
    assert [text[:2] for text in tuned.samples[0]] == ["从前", "从前"]


def test_a_number_or_an_abbreviation_does_not_end_a_sentence(tokenizer):
    text = "Pi is 3.14159265358979 or so. The end came."
    assert split_long(text, tokenizer, 32) == ["Pi is 3.14159265358979 or so.", "The end came."]


def test_a_new_folder_in_which_nothing_was_saved_is_removed_again(tune, tmp_path):
    done = tune(
        folder=tmp_path / "new",
        callback=lambda *_: signal.raise_signal(signal.SIGINT),
    )
    assert done.folder is None
    assert not (tmp_path / "new").exists()
