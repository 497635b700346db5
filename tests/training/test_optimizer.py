import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.amp import GradScaler

from slm.batches import Batches
from slm.model.transformer import Transformer
from slm.settings import ModelConfig, TrainConfig
from slm.training.optimizer import Muon, make_optimizers
from slm.training.schedule import learning_rate_factor
from slm.training.step import make_scaler, train_step

SMALL = {"vocab_size": 50, "d_model": 32, "n_layers": 2, "n_heads": 2, "context_length": 16}


def make_model(**settings) -> Transformer:
    return Transformer(ModelConfig(**SMALL | settings))


def make_config(**settings) -> TrainConfig:
    return TrainConfig(**{"steps": 10, "precision": "float32", "device": "cpu"} | settings)


def make_batches(batch_size: int) -> Batches:
    tokens = np.random.default_rng(0).integers(1, 50, 600).astype(np.uint16)
    tokens[::20] = 0
    return Batches(tokens, batch_size=batch_size, context_length=16, seed=1, rows_in_step=4)


def gradients(model: Transformer, config: TrainConfig) -> tuple[dict, float, float]:
    """What a step takes off the weights under plain gradient descent; its loss and norm."""
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    descent = torch.optim.SGD(model.parameters(), lr=123.0)
    loss, norm = train_step(
        model, make_batches(config.batch_size), [descent], config, 1.0, make_scaler(config, "cpu")
    )
    return {name: before[name] - now for name, now in model.state_dict().items()}, loss, norm


# The learning rate


@pytest.mark.parametrize("warmup", [0.03, 0.2, 0.5])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_the_rate_rises_in_a_line_and_falls_in_a_line(warmup, final):
    config = make_config(warmup=warmup, final_learning_rate=final)
    progress = np.linspace(0, 1, 101)
    expected = np.interp(progress, [0, warmup, 1], [0, 1, final])
    found = [learning_rate_factor(p, config) for p in progress]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("warmup", "progress", "expected"), [(0, 0, 1), (0, 1, 0), (1, 0.5, 0.5)])
def test_a_run_may_only_fall_or_only_rise(warmup, progress, expected):
    config = make_config(warmup=warmup)
    assert learning_rate_factor(progress, config) == pytest.approx(expected)


def test_past_the_end_the_rate_stays_where_it_fell_to():
    assert learning_rate_factor(1.5, make_config(final_learning_rate=0.1)) == pytest.approx(0.1)


# Who updates what


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_weight_has_one_optimizer_and_blocks_matrices_have_muon(tie, optimizer):
    model = make_model(tie_embeddings=tie)
    optimizers = make_optimizers(model, make_config(optimizer=optimizer))
    names = {id(weight): name for name, weight in model.named_parameters()}
    owned = [
        (names[id(weight)], type(owner).__name__)
        for owner in optimizers
        for group in owner.param_groups
        for weight in group["params"]
    ]
    assert sorted(name for name, _ in owned) == sorted(names.values())
    assert ("lm_head.weight" in names.values()) is not tie
    for name, owner in owned:
        is_matrix = "layers" in name and name.endswith("_proj.weight")
        assert owner == ("Muon" if is_matrix and optimizer == "muon" else "AdamW")
    assert sum(name.endswith("_proj.weight") for name, _ in owned) == 7 * 2


def test_only_matrices_are_decayed():
    model = make_model()
    for optimizer in make_optimizers(model, make_config(weight_decay=0.1)):
        for group in optimizer.param_groups:
            of_blocks = id(model.model.layers[0].mlp.up_proj.weight) in map(id, group["params"])
            assert group["weight_decay"] == (0.1 if of_blocks else 0.0)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrix, as the singular value decomposition gives it."""
    u, _, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u @ vt


def test_muon_steps_by_about_the_nearest_orthogonal_matrix():
    model, rate = make_model(), 0.01
    muon = make_optimizers(model, make_config())[0]
    weights = dict(model.model.layers.named_parameters())
    weights = {name: weight for name, weight in weights.items() if weight.dim() == 2}
    generator = torch.Generator().manual_seed(0)
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape, generator=generator) * 1e-3
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    for group in muon.param_groups:
        group["lr"] = rate
    muon.step()
    for name, weight in weights.items():
        length = rate * 0.2 * max(weight.shape) ** 0.5  # Liu et al. 2025, section 2.2
        update = ((before[name] - weight.detach()) / length).double()
        alike = F.cosine_similarity(update.flatten(), orthogonal(weight.grad).flatten(), dim=0)
        assert alike > 0.95, name
        strengths = torch.linalg.svdvals(update)
        assert strengths.max() < 1.3, name
        assert strengths.quantile(0.1) > 0.5, name  # a gradient's own would be far from even


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_takes_the_steps_of_pytorchs_own(dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = (24, 24), (40, 24), (24, 40), (24, 24)
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9}
    optimizers = [
        Muon(ours, 0.1, dtype),
        torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings),
    ]
    optimizers[0].param_groups[0]["lr"] = 0.02
    for _ in range(3):
        for weights in zip(ours, theirs, strict=True):
            gradient = torch.randn(weights[0].shape, generator=generator)
            for weight in weights:
                weight.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other, first in zip(ours, theirs, start, strict=True):
        moved = (other - first).norm()
        assert (mine - other).norm() < 0.03 * moved  # bfloat16 has about 3 digits


def test_muon_leaves_a_matrix_alone_that_took_no_part_in_the_loss():
    used = torch.ones(4, 4, requires_grad=True)
    unused = torch.ones(4, 4, requires_grad=True)
    muon = Muon([used, unused], weight_decay=0.1, dtype=torch.float32)
    muon.param_groups[0]["lr"] = 0.01
    used.sum().backward()

    muon.step()

    assert not torch.equal(used, torch.ones(4, 4))
    assert torch.equal(unused, torch.ones(4, 4))
    assert unused not in muon.state


def test_adamw_first_steps_by_its_rate_against_the_gradients_sign():
    model = make_model()
    config = make_config(optimizer="adamw", weight_decay=0.0)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizers, scaler = make_optimizers(model, config), make_scaler(config, "cpu")
    train_step(model, make_batches(4), optimizers, config, 0.01, scaler)
    for name, weight in model.named_parameters():
        longest = (weight - before[name]).abs().max().item()
        if name.endswith("embed_tokens.weight"):
            assert longest == pytest.approx(2 * 0.01, rel=1e-2)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            assert longest == pytest.approx(0.2 * 0.01, rel=1e-2), name
        elif name.endswith("_proj.weight"):  # zero matrices after it pass no gradient on
            assert longest < 1e-6, name


# One step


def test_a_step_descends_the_gradient_that_pytorch_computes():
    model, config = make_model(), make_config(batch_size=4, grad_clip=1e9)
    x, y = next(make_batches(4))
    loss = F.cross_entropy(model(x).transpose(1, 2), y)
    weights = dict(model.named_parameters())
    expected = dict(zip(weights, torch.autograd.grad(loss, weights.values()), strict=True))
    norm = sum(gradient.square().sum() for gradient in expected.values()) ** 0.5
    found, found_loss, found_norm = gradients(model, config)
    assert found_loss == pytest.approx(loss.item(), rel=1e-5)
    assert found_norm == pytest.approx(norm.item(), rel=1e-4)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)
    assert all(weight.grad is None for weight in model.parameters())


def test_two_batches_of_two_add_up_to_one_of_four():
    free = {"grad_clip": 1e9}
    whole = gradients(make_model(), make_config(batch_size=4, **free))
    parts = gradients(make_model(), make_config(batch_size=2, grad_accumulation=2, **free))
    assert parts[1:] == pytest.approx(whole[1:], rel=1e-5)
    for name, gradient in whole[0].items():
        torch.testing.assert_close(parts[0][name], gradient, rtol=1e-3, atol=1e-6)


def test_a_long_gradient_is_shortened_and_its_length_reported():
    full, _, norm = gradients(make_model(), make_config(batch_size=4, grad_clip=1e9))
    short, _, same_norm = gradients(make_model(), make_config(batch_size=4, grad_clip=0.01))
    assert norm > 0.02
    assert same_norm == pytest.approx(norm)
    for name, gradient in full.items():
        torch.testing.assert_close(short[name], gradient * 0.01 / norm, rtol=2e-3, atol=1e-7)


def test_float16_takes_about_the_same_step_through_a_scaled_loss():
    exact = gradients(make_model(), make_config(batch_size=4, grad_clip=1e9))
    model, config = make_model(), make_config(batch_size=4, grad_clip=1e9, precision="float16")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    descent, scaler = torch.optim.SGD(model.parameters()), GradScaler("cpu", init_scale=2.0**12)
    loss, norm = train_step(model, make_batches(4), [descent], config, 1.0, scaler)
    assert loss == pytest.approx(exact[1], rel=1e-3)
    assert norm == pytest.approx(exact[2], rel=1e-2)
    found = torch.cat([(before[k] - x).flatten() for k, x in model.state_dict().items()])
    expected = torch.cat([x.flatten() for x in exact[0].values()])
    assert (found - expected).norm() < 0.01 * expected.norm()


def test_in_float16_a_step_that_overflows_is_left_out():
    model, config = make_model(), make_config(batch_size=4, precision="float16")
    before = [weight.clone() for weight in model.parameters()]
    descent, scaler = torch.optim.SGD(model.parameters()), GradScaler("cpu", init_scale=2.0**120)
    train_step(model, make_batches(4), [descent], config, 1.0, scaler)
    assert all(map(torch.equal, before, model.parameters()))
    assert scaler.get_scale() < 2.0**120


def test_a_loss_that_is_not_a_number_is_refused_before_it_is_learned():
    model, config = make_model(), make_config(batch_size=2)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(float("inf"))
    before = model.model.layers[0].mlp.up_proj.weight.clone()
    optimizers, scaler = make_optimizers(model, config), make_scaler(config, "cpu")
    with pytest.raises(ValueError, match=r"nan.*learning_rate"):
        train_step(model, make_batches(2), optimizers, config, 0.1, scaler)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, before)


# Configuration


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("steps", [0, -1, 1.5, "10", True, 10.0]),
        ("tokens", [0, 1e6]),
        ("minutes", [0, -1, float("nan"), float("inf"), "5"]),
        ("schedule", [(), (0.1, -0.1), (float("nan"),), (1.0, float("nan")), (float("inf"),)]),
        ("batch_size", [0, 2.0, None]),
        ("grad_accumulation", [0, None]),
        ("optimizer", ["sgd", None, "Muon"]),
        ("learning_rate", [0, -0.1, float("nan"), None]),
        ("warmup", [-0.1, 1.1, None]),
        ("final_learning_rate", [-0.1, 2]),
        ("weight_decay", [-0.1, 1.1]),
        ("grad_clip", [0, -1]),
        ("precision", ["float64", None]),
        ("device", ["gpu", 0]),
        ("evaluations", [0, 2.5]),
        ("evaluation_stories", [0, None]),
        ("seed", [-1, 0.5, None]),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(name, values):
    budget = {} if name in ("steps", "tokens", "minutes", "schedule") else {"steps": 10}
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name} must") as refused:
            TrainConfig(**budget | {name: value})
        assert str(refused.value).endswith("."), value


@pytest.mark.parametrize(
    "budgets",
    [{}, {"steps": 5, "tokens": 5}, {"minutes": 1.0, "schedule": (0.1,)}, {"steps": None}],
)
def test_exactly_one_budget_must_be_given(budgets):
    given = [name for name, value in budgets.items() if value is not None]
    with pytest.raises(ValueError, match="one of steps, tokens, minutes, schedule") as refused:
        TrainConfig(**budgets)
    said = str(refused.value).partition("schedule")[2]
    assert all(name in said for name in given or ["none"])


@pytest.mark.parametrize(
    "budget", [{"steps": 1}, {"tokens": 1}, {"minutes": 0.1}, {"minutes": 5}, {"schedule": (0.1,)}]
)
def test_each_budget_will_do(budget):
    config = TrainConfig(**budget)
    assert {name: getattr(config, name) for name in budget} == budget
