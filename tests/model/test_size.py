import pytest
import torch

from slm.model.size import check_memory, model_bytes, parameter_count
from slm.model.transformer import Transformer
from slm.settings import ModelConfig

SMALL = {"vocab_size": 300, "context_length": 32, "n_layers": 2, "n_heads": 2, "d_model": 32}
SHAPES = [{}, {"tie_embeddings": False}, {"n_kv_heads": 1}, {"d_ff": 40}, {"n_layers": 5}]


@pytest.fixture
def free(monkeypatch):
    """Let so many bytes of memory be free."""

    def set_free(size: int | None) -> None:
        monkeypatch.setattr("slm.model.size.available_memory", lambda device: size)

    return set_free


@pytest.mark.parametrize("fields", SHAPES, ids=str)
def test_parameters_are_counted_without_building_the_model(fields):
    config = ModelConfig(**SMALL | fields)
    weights = Transformer(config).parameters()
    assert parameter_count(config) == sum(weight.numel() for weight in weights)


@pytest.mark.parametrize(
    ("absurd", "named"),
    [
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"context_length": 10**12}, "context_length"),
        ({"n_layers": 10**9}, "n_layers"),
        ({"d_ff": 10**12}, "d_ff"),
        ({"d_model": 10**12}, "d_model"),
        ({"d_model": 2**62, "d_ff": 32}, "d_model"),
    ],
)
def test_a_model_that_memory_cannot_hold_is_refused_by_the_largest_setting_that_fits(
    free, absurd, named
):
    free(8 * 10**9)
    sentence = rf"^This model needs at least .* GB of memory, and 8\.0 are free: set {named} to at"
    with pytest.raises(ValueError, match=sentence) as refused:
        Transformer(ModelConfig(**SMALL | absurd))
    largest = int(str(refused.value).split("at most ")[1].rstrip(".").replace(",", ""))
    fitting = SMALL | absurd | {named: largest}
    if named == "d_model":
        fitting["d_ff"] = None
    check_memory(ModelConfig(**fitting))
    unit = 2 * fitting["n_heads"] if named == "d_model" else 1
    with pytest.raises(ValueError, match=r"at least 8\.0 GB"):
        check_memory(ModelConfig(**fitting | {named: largest + unit}))


def test_where_several_settings_are_too_large_all_that_may_be_are_named(free):
    free(10**9)
    with pytest.raises(ValueError, match=r"set vocab_size and .* and d_model to less"):
        Transformer(ModelConfig(vocab_size=10**12, n_layers=10**12))


def test_what_is_free_on_this_machine_is_what_counts():
    with pytest.raises(ValueError, match=r"^This model needs at least 512,000\.0 GB of memory"):
        Transformer(ModelConfig(vocab_size=10**12))


def test_a_model_that_just_fits_is_built(free):
    config = ModelConfig(**SMALL)
    free(model_bytes(config))
    Transformer(config)
    free(model_bytes(config) - 1)
    with pytest.raises(ValueError, match="This model needs at least"):
        Transformer(config)


def test_where_memory_cannot_be_found_out_the_model_is_built(free):
    free(None)
    Transformer(ModelConfig(**SMALL))


def test_a_model_without_memory_of_its_own_may_have_any_size():
    with torch.device("meta"):
        model = Transformer(ModelConfig(vocab_size=10**10))
    assert model.model.embed_tokens.weight.shape == (10**10, 128)
