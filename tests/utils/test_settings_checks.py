import numpy as np
import pytest

from slm.settings import FineTuneConfig, ModelConfig, SamplingConfig, TrainConfig, configure


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_numpys_whole_numbers_are_numbers(kind):
    config = TrainConfig(steps=kind(7), batch_size=kind(3), seed=kind(0))
    assert (config.steps, config.batch_size, config.seed) == (7, 3, 0)
    assert type(config.steps) is type(config.batch_size) is type(config.seed) is int
    assert config == TrainConfig(steps=7, batch_size=3, seed=0)
    assert ModelConfig(d_model=kind(96), n_heads=kind(3)) == ModelConfig(d_model=96, n_heads=3)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_numpys_numbers_are_numbers(kind):
    config = TrainConfig(minutes=kind(2))
    assert config.minutes == 2
    assert type(config.minutes) in (int, float)


@pytest.mark.parametrize("value", [np.bool_(True), np.array([1]), np.array(1), np.float64(1.0)])
def test_what_is_no_whole_number_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^steps must be a whole number from 1 up"):
        TrainConfig(steps=value)


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "seed"])
def test_none_is_taken_where_the_type_says_so(name):
    assert getattr(SamplingConfig(**{name: None}), name) is None


@pytest.mark.parametrize("name", ["temperature", "max_new_tokens", "repetition_penalty"])
def test_none_is_refused_elsewhere(name):
    with pytest.raises(ValueError, match=rf"^{name} must .* not None\.$"):
        SamplingConfig(**{name: None})


@pytest.mark.parametrize(
    "schedule", [[0.1, 0.2], (0.1, 0.2), np.array([0.1, 0.2]), (x for x in (0.1, 0.2))]
)
def test_a_schedule_may_be_any_row_of_numbers(schedule):
    assert TrainConfig(schedule=schedule).schedule == (0.1, 0.2)


@pytest.mark.parametrize("schedule", [0.01, 5, "0.01", "12", {0.1: 1}, [None], [[0.1]], object()])
def test_what_is_no_schedule_is_refused_in_one_sentence(schedule):
    with pytest.raises(ValueError, match=r"^schedule must hold a learning rate of .*\.$"):
        TrainConfig(schedule=schedule)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "learning_rate"),
        ("epochs", "steps"),
        ("max_iters", "steps"),
        ("block_size", "context_length"),
        ("n_embd", "d_model"),
        ("hidden_size", "d_model"),
        ("num_layers", "n_layers"),
        ("dtype", "precision"),
        ("bachsize", "batch_size"),
    ],
)
def test_other_libraries_names_get_ours_suggested(name, meant):
    with pytest.raises(ValueError, match=f"no setting '{name}': did you mean '{meant}'"):
        configure(**{name: 1})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x" * 1000, "'" + "x" * 99 + "..."),
        ([1] * 10**6, "[1, 1, 1"),
        (np.ones((3, 3)), "array([[1., 1., 1.], [1., 1., 1.]"),
        (10**5000, "a number of thousands of digits"),
    ],
    ids=["text", "list", "array", "number"],
)
def test_a_long_wrong_value_is_shown_in_short_and_in_one_line(value, shown):
    with pytest.raises(ValueError, match=r"^steps must be a whole number") as refused:
        TrainConfig(steps=value)
    sentence = str(refused.value)
    assert f", not {shown}" in sentence
    assert "\n" not in sentence
    assert len(sentence) < 200


@pytest.mark.parametrize("name", ["learning_rate", "grad_clip", "minutes"])
def test_an_upper_limit_is_said_where_it_is_the_matter(name):
    budget = {} if name == "minutes" else {"steps": 1}
    with pytest.raises(ValueError, match=rf"^{name} must be a number above 0 and at most 9e\+18"):
        TrainConfig(**budget | {name: 1e20})
    with pytest.raises(ValueError, match=rf"^{name} must be a number above 0, not -1"):
        TrainConfig(**budget | {name: -1})


def test_limits_are_said():
    with pytest.raises(ValueError, match=r"^held_out must be a number above 0 and at most 0\.5"):
        FineTuneConfig(held_out=0.6)
    with pytest.raises(ValueError, match=r"^warmup must be a number from 0 to 1, not 2"):
        TrainConfig(steps=1, warmup=2)
    with pytest.raises(ValueError, match=r"^seed must be a whole number from 0 to 9e\+18"):
        TrainConfig(steps=1, seed=2**70)


@pytest.mark.parametrize("value", [np.array(["muon", "adamw"]), ["muon"], None, 1])
def test_what_is_no_choice_is_refused_in_one_sentence(value):
    with pytest.raises(ValueError, match=r"^optimizer must be one of muon, adamw, not "):
        TrainConfig(steps=1, optimizer=value)
