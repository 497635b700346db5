"""Sizes that make no sense: wherever a user gives one, a sentence says what is wrong with it.

What needs more memory than there is must say so before it is taken, and nothing may hang.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import slm
from slm.stories.cleaning import Cleaning, Stories
from slm.stories.practice import practice_stories
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.settings_checks import show_value

TEXTS = practice_stories(30)
STORIES = Stories(TEXTS[6:], TEXTS[:6], "practice", True, Cleaning(30, 0, 0, 0, 0, 30))
NEVER = [0, -1, -(10**30), math.nan, "7", [7], 10**5000, True, np.array([7, 7])]
BEYOND = [*NEVER, 2**63, 10**30, math.inf]  # of what NumPy and PyTorch count with
ABSURD = [*BEYOND, 10**12]
SMALL = {"n_layers": 1, "n_heads": 1, "d_model": 16, "context_length": 32, "batch_size": 2}
LONGEST = 400  # letters of a sentence


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def given(random_model, tokenizer) -> tuple[slm.Transformer, Tokenizer]:
    return random_model(), tokenizer


def assert_one_sentence(call: Callable, error: type[Exception] = ValueError) -> str:
    with pytest.raises(error) as refused:
        call()
    sentence = str(refused.value)
    assert refused.type is error
    assert len(sentence) <= LONGEST
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


@pytest.mark.parametrize("number", ABSURD, ids=show_value)
@pytest.mark.parametrize("name", ["vocab_size", "context_length", "n_layers", "d_model", "d_ff"])
def test_the_sizes_of_a_model(name, number):
    sentence = assert_one_sentence(lambda: slm.Transformer(slm.ModelConfig(**{name: number})))
    assert name in sentence


@pytest.mark.parametrize("number", ABSURD, ids=show_value)
@pytest.mark.parametrize(
    "name", ["context_length", "n_layers", "d_model", "d_ff", "batch_size", "grad_accumulation"]
)
def test_the_sizes_of_a_run(name, number, tokenizer):
    settings = SMALL | {"steps": 1, "device": "cpu", "folder": "run", name: number}
    sentence = assert_one_sentence(lambda: slm.train(STORIES, tokenizer=tokenizer, **settings))
    assert name in sentence
    assert not Path("run").exists()


@pytest.mark.parametrize("number", ABSURD, ids=show_value)
@pytest.mark.parametrize("name", ["batch_size", "epochs", "lora_rank"])
def test_the_sizes_of_fine_tuning(name, number, given):
    pytest.importorskip("peft")
    settings = {"ordinary": STORIES, "device": "cpu", name: number}
    assert name in assert_one_sentence(lambda: slm.finetune(*given, TEXTS, **settings))


@pytest.mark.parametrize("number", ABSURD, ids=show_value)
def test_the_number_of_stories_to_write(number, given):
    sentence = assert_one_sentence(lambda: slm.generate(*given, "Once", n=number))
    assert "n " in sentence


@pytest.mark.parametrize("number", BEYOND, ids=show_value)
@pytest.mark.parametrize("name", ["max_new_tokens", "top_k"])
def test_the_sizes_of_a_story(name, number, given):
    sentence = assert_one_sentence(lambda: slm.generate(*given, "Once", **{name: number}))
    assert name in sentence


@pytest.mark.parametrize("number", BEYOND, ids=show_value)
def test_the_number_of_stories_to_read(number):
    assert "n, the number of stories" in assert_one_sentence(
        lambda: slm.load_stories(TEXTS, n=number)
    )


@pytest.mark.parametrize("number", ABSURD, ids=show_value)
def test_the_size_of_a_tokenizer(number):
    sentence = assert_one_sentence(lambda: slm.train_tokenizer(TEXTS, vocab_size=number))
    assert "vocab_size" in sentence


@pytest.mark.parametrize("number", BEYOND, ids=show_value)
def test_the_size_of_a_batch_that_is_evaluated(number, given):
    sentence = assert_one_sentence(lambda: slm.evaluate(*given, TEXTS[:2], batch_size=number))
    assert "batch_size" in sentence


def test_a_batch_that_does_not_fit_is_evaluated_in_parts(given, monkeypatch):
    whole = slm.evaluate(*given, TEXTS[:4], batch_size=10**12)
    monkeypatch.setattr("slm.evaluation.available_memory", lambda device: 1)
    parts = slm.evaluate(*given, TEXTS[:4])
    assert parts.tokens == whole.tokens
    assert parts.nats_per_token == pytest.approx(whole.nats_per_token, rel=1e-5)


@pytest.mark.parametrize("number", ABSURD, ids=show_value)
@pytest.mark.parametrize("bits", [8, 4])
def test_the_groups_of_a_quantized_model(bits, number, given):
    sentence = assert_one_sentence(lambda: slm.quantize(given[0], bits, number))
    assert "group_size" in sentence


@pytest.mark.parametrize("number", NEVER, ids=show_value)
def test_the_size_of_a_page(number, given):
    slm.save_model("mine", *given)
    sentence = assert_one_sentence(
        lambda: slm.export_html("mine", "page.html", max_megabytes=number)
    )
    assert "max_megabytes" in sentence


@pytest.mark.parametrize("number", BEYOND, ids=show_value)
@pytest.mark.parametrize("name", ["samples", "evaluation_stories"])
def test_the_sizes_of_a_report(name, number, given):
    pytest.importorskip("matplotlib")
    assert name in assert_one_sentence(lambda: slm.story_report(*given, STORIES, **{name: number}))


@pytest.mark.parametrize("name", ["stories", "tokens", "cache_megabytes", "connections", "waiting"])
@pytest.mark.parametrize("number", [-1, math.nan, 2**63, 10**5000, "7", None], ids=show_value)
def test_the_limits_of_a_server(name, number):
    assert name in assert_one_sentence(lambda: slm.settings.ServerLimits(**{name: number}))


@pytest.mark.parametrize("number", [-1, 65_536, 10**30, math.nan, "80", None])
def test_the_port_of_a_server(number):
    server = pytest.importorskip("slm.serving.server")
    assert "port" in assert_one_sentence(lambda: server.listen("127.0.0.1", number))


@pytest.mark.parametrize("host", ["", "a\0b", "\udcff", "\ud800", 5, None])
def test_what_is_no_host_of_a_server(host):
    server = pytest.importorskip("slm.serving.server")
    assert "is no host" in assert_one_sentence(lambda: server.listen(host, 0))


@pytest.mark.parametrize(
    "name", ["temperature", "repetition_penalty", "dry_multiplier", "min_p", "top_p"]
)
@pytest.mark.parametrize("number", [1e-300, 1e-6, 1.0, 1e300, 9e18, math.inf, math.nan, -1.0])
def test_a_strange_number_for_sampling_is_refused_or_gives_a_story(name, number, given):
    try:
        story = slm.generate(*given, "Once", max_new_tokens=8, seed=0, **{name: number})
    except ValueError as error:
        assert name in str(error)
    else:
        assert story.startswith("Once")


def test_a_model_in_a_folder_that_memory_cannot_hold_is_not_called_damaged(given, monkeypatch):
    slm.save_model("mine", *given)
    monkeypatch.setattr("slm.model.size.available_memory", lambda device: 1000)
    sentence = assert_one_sentence(lambda: slm.load_model("mine"))
    assert sentence.startswith("This model needs at least")
