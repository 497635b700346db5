import signal
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from slm.batches import Batches, pack
from slm.checkpoint.saving import save_model
from slm.settings import TrainConfig
from slm.stories.cleaning import Cleaning, Stories
from slm.stories.practice import practice_stories
from slm.tokenizer.training import train_tokenizer
from slm.training.distillation import add_soft_targets
from slm.training.loop import train
from slm.training.optimizer import make_optimizers
from slm.training.step import make_scaler, train_step

TEXTS = practice_stories(40)
STORIES = Stories(TEXTS[4:], TEXTS[:4], "practice", True, Cleaning(40, 0, 0, 0, 0, 40))
TOKENIZER = train_tokenizer(TEXTS, 280)
TINY = {"tokenizer": TOKENIZER, "d_model": 32, "n_layers": 2, "n_heads": 4, "context_length": 32}
TINY |= {"batch_size": 2, "evaluations": 2, "evaluation_stories": 2, "steps": 6}
TINY |= {"device": "cpu", "precision": "float32"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def teachers(random_model) -> dict:
    """Two random models, kept in folders; here as transformers loads them."""
    for seed, name in enumerate(("one", "two"), start=1):
        save_model(name, random_model(seed), TOKENIZER)
    return {name: LlamaForCausalLM.from_pretrained(name).eval() for name in ("one", "two")}


def batches() -> Batches:
    return Batches(pack(TEXTS, TOKENIZER), batch_size=2, context_length=32)


def lessons(student, **settings):
    config = TrainConfig(steps=1, device="cpu", precision="float32", **settings)
    return add_soft_targets(batches(), config, student, TOKENIZER)


# What is taught


@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_targets_are_a_share_of_what_the_teacher_expects_and_the_rest_the_token_that_came(
    teachers, random_model, share
):
    plain = batches()
    found = lessons(random_model(3), teachers="one", distillation=share)
    for _ in range(3):
        (x, targets), (ids, y) = next(found), next(plain)
        assert torch.equal(x, ids)
        with torch.no_grad():
            expected = share * teachers["one"](ids).logits.softmax(-1)
        expected += (1 - share) * F.one_hot(y, 280)
        torch.testing.assert_close(targets, expected, atol=1e-5, rtol=1e-4)


def test_the_loss_is_the_same_shares_of_two_cross_entropies(teachers, random_model):
    student = random_model(3)
    x, y = next(batches())
    with torch.no_grad():
        logits, expected = student(x).flatten(0, 1), teachers["one"](x).logits.softmax(-1)
    soft = -(expected.flatten(0, 1) * logits.log_softmax(-1)).sum(-1).mean()
    hard = F.cross_entropy(logits, y.flatten())
    config = TrainConfig(steps=1, device="cpu", precision="float32")
    some = lessons(student, teachers="one", distillation=0.3)
    optimizers, scaler = make_optimizers(student, config), make_scaler(config, "cpu")
    loss, _ = train_step(student, some, optimizers, config, 0.01, scaler)
    assert loss == pytest.approx((0.7 * hard + 0.3 * soft).item(), rel=1e-5)


def test_who_expects_what_the_teacher_does_has_nothing_to_learn_from_it(teachers, random_model):
    student = random_model(1)  # the very weights of "one"
    config = TrainConfig(steps=1, device="cpu", precision="float32")
    norms = {}
    for share in (1, 0):
        some = lessons(student, teachers="one", distillation=share)
        optimizers, scaler = make_optimizers(student, config), make_scaler(config, "cpu")
        _, norms[share] = train_step(student, some, optimizers, config, 0.0, scaler)
    assert norms[1] < 1e-4 * norms[0]


def test_several_teachers_take_turns(teachers, random_model):
    found, plain = lessons(random_model(3), teachers="one, two", distillation=1), batches()
    turns = []
    for _ in range(30):
        (_, targets), (x, _) = next(found), next(plain)
        with torch.no_grad():
            far = [
                (model(x).logits.softmax(-1) - targets).abs().max() for model in teachers.values()
            ]
        assert min(far) < 1e-5 < max(far)
        turns.append(far[0] < far[1])
    assert 8 <= sum(turns) <= 22


# Training with teachers


def test_a_run_that_is_taught_nothing_is_one_without_teachers(teachers):
    taught_nothing = train(STORIES, **TINY, teachers="one", distillation=0).history
    alone = train(STORIES, **TINY).history
    for found, expected in zip(taught_nothing.steps, alone.steps, strict=True):
        assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert taught_nothing.evaluations[-1].bits_per_byte == pytest.approx(
        alone.evaluations[-1].bits_per_byte, rel=1e-4
    )


def test_a_student_comes_to_expect_what_its_teacher_does(teachers):
    x, _ = next(batches())
    with torch.no_grad():
        expected = teachers["one"](x).logits.softmax(-1)

    def distance(run) -> float:
        with torch.no_grad():
            return F.kl_div(run.model(x).log_softmax(-1), expected, reduction="sum").item()

    how = TINY | {"steps": 60}
    alone = train(STORIES, **how)
    assert distance(train(STORIES, **how, teachers="one", distillation=1)) < 0.8 * distance(alone)


def test_an_interrupted_run_goes_on_with_its_teachers_to_the_same_end(teachers):
    how = TINY | {"teachers": "one,two", "dropout": 0.1}
    whole = train(STORIES, **how, folder="whole")

    def stop(history) -> None:
        if len(history.steps) == 4:
            signal.raise_signal(signal.SIGINT)

    assert not train(STORIES, **how, folder="parts", callback=stop).finished
    parts = train(STORIES, **how, folder="parts")
    steps = [[replace(x, seconds=0.0) for x in run.history.steps] for run in (whole, parts)]
    assert steps[0] == steps[1]
    weights = parts.model.state_dict()
    assert all(torch.equal(weights[k], x) for k, x in whole.model.state_dict().items())


def test_a_finished_run_goes_further_with_a_copy_of_itself_as_teacher():
    first = train(STORIES, **TINY, folder="mine")
    save_model("teacher", first.model, TOKENIZER)
    further = train(STORIES, **TINY | {"steps": 9}, folder="mine", teachers="teacher")
    assert len(further.history.steps) == 9
    assert further.history.steps[:6] == first.history.steps
    with pytest.raises(ValueError, match="a run with other teachers"):  # but only with more steps
        train(STORIES, **TINY | {"steps": 9}, folder="mine")


# What cannot teach


def test_a_teacher_with_another_tokenizer_is_refused(random_model):
    other = train_tokenizer(["Quite another text, without a single cat or mat in it. "] * 2, 280)
    save_model("other", random_model(), other)
    with pytest.raises(ValueError, match="other has another tokenizer"):
        train(STORIES, **TINY, teachers="other", folder="mine")


def test_a_teacher_that_reads_less_than_its_student_is_refused(random_model):
    save_model("short", random_model(context_length=16), TOKENIZER)
    with pytest.raises(ValueError, match="set context_length to at most 16"):
        train(STORIES, **TINY, teachers="short", folder="mine")


@pytest.mark.parametrize("teachers", ["nowhere", "one,nowhere", "one,", 5])
def test_a_teacher_that_is_not_there_is_refused_and_a_finished_run_left_alone(
    random_model, teachers, tmp_path
):
    save_model("one", random_model(), TOKENIZER)
    run = train(STORIES, **TINY, folder="mine")
    kept = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    refused = r"^There is no model at|^An empty text names no file or folder"
    with pytest.raises((FileNotFoundError, ValueError), match=refused):
        train(STORIES, **TINY, folder="mine", teachers=teachers, fresh=True)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == kept


@pytest.mark.parametrize("share", [-0.1, 1.1, "half"])
def test_a_share_that_makes_no_sense_is_refused(share):
    with pytest.raises(ValueError, match="distillation must be a number from 0 to 1"):
        TrainConfig(steps=1, teachers="one", distillation=share)
