import json
from dataclasses import asdict

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import safe_open

from slm.model.transformer import Transformer
from slm.settings import ModelConfig, TrainConfig
from slm.training.history import Step, StepEvaluation
from slm.training.optimizer import make_optimizers
from slm.training.state_file import read_metadata, read_tensors, restore_tensors, save_state

CONFIG = ModelConfig(vocab_size=280, context_length=16, n_layers=2, d_model=32, dropout=0.1)
STEP = asdict(Step(step=1, loss=5.5, learning_rate=0.01, grad_norm=1.0, tokens=64, seconds=0.5))
EVALUATION = asdict(StepEvaluation(1, 64, 5.5, 1e-300, "日本 😀"))
METADATA = {
    "settings": {"steps": 4.0, "text": "日本 😀", "none": None, "list": [0.1, 1e-300]},
    "batches": 12,
    "unfinished": [[1, 2, 30], [2, 0, 31]],
    "scaler": {"scale": 65536.0, "_growth_tracker": 7},
    "share": 0.25,
    "history": {"steps": [STEP], "evaluations": [EVALUATION]},
}


def fresh(optimizer="muon", seed=0):
    training = TrainConfig(steps=10, optimizer=optimizer, weight_decay=0.1)
    model = Transformer(CONFIG, seed=seed)
    return model, make_optimizers(model, training)


def train(model, optimizers, steps, seed):
    losses = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(seed + step)
        ids = torch.randint(280, (4, 17), generator=generator)
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.02 / (step + 1)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_restored_run_goes_on_exactly_as_the_original(optimizer, tmp_path):
    model, optimizers = fresh(optimizer)
    torch.manual_seed(0)
    train(model, optimizers, 4, seed=0)
    save_state(tmp_path / "new" / "state", model, optimizers, METADATA)
    expected = train(model, optimizers, 3, seed=100)
    other, its_optimizers = fresh(optimizer, seed=5)
    train(other, its_optimizers, 2, seed=50)  # not as new, and the random state moved on
    for again, again_optimizers in (fresh(optimizer, seed=6), (other, its_optimizers)):
        tensors = read_tensors(tmp_path / "new" / "state", again, again_optimizers)
        assert read_metadata(tmp_path / "new" / "state") == METADATA
        restore_tensors(tensors, again, again_optimizers)
        assert train(again, again_optimizers, 3, seed=100) == expected
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, again.state_dict()[name]), name


def test_an_optimizer_whose_state_is_unknown_is_refused(tmp_path):
    model, _ = fresh()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)]
    with pytest.raises(TypeError, match=r"SGD cannot be saved.*STATE_NAMES"):
        save_state(tmp_path / "state", model, optimizers, METADATA)
    assert list(tmp_path.iterdir()) == []


def test_a_state_whose_writing_fails_leaves_the_last_one(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk is full")

    model, optimizers = fresh()
    save_state(tmp_path / "state", model, optimizers, METADATA)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="disk is full"):
            save_state(tmp_path / "state", model, optimizers, METADATA | {"batches": 13})
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    read_tensors(tmp_path / "state", model, optimizers)
    assert read_metadata(tmp_path / "state") == METADATA


@pytest.fixture
def state(tmp_path):
    """A state file after two steps, with the model and optimizers it is of."""
    model, optimizers = fresh()
    train(model, optimizers, 2, seed=0)
    path = tmp_path / "state"
    save_state(path, model, optimizers, METADATA)
    return path, model, optimizers


def rewrite(path, tensors=None, metadata=None, drop=()):
    """Change a state file as an earlier version, or an attacker, would: it has no digest."""
    with safe_open(path, "pt") as file:
        content = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        found = json.loads(file.metadata()["facts"])
    content = {name: x for name, x in (content | (tensors or {})).items() if name not in drop}
    text = metadata if isinstance(metadata, str) else json.dumps(found | (metadata or {}))
    path.write_bytes(safetensors.torch.save(content, {"facts": text}))


def assert_refused(path, model, optimizers, reason=""):
    with pytest.raises(ValueError, match=rf"is damaged .*{reason}.*fresh=True") as refused:
        read_metadata(path)
        read_tensors(path, model, optimizers)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 400 + len(str(path))


def test_a_state_of_an_earlier_version_is_read(state):
    path, model, optimizers = state
    rewrite(path)
    metadata = {name: METADATA[name] for name in ("settings", "batches", "share", "history")}
    rewrite(path, metadata=json.dumps(metadata))
    read_tensors(path, model, optimizers)
    assert read_metadata(path) == metadata


@pytest.mark.parametrize("damage", [0, 4, 100, -7, "text", "no facts"])
def test_a_file_that_is_cut_off_or_something_else_is_refused(state, damage):
    path, *_ = state
    if isinstance(damage, int):
        path.write_bytes(path.read_bytes()[:damage])
    elif damage == "text":
        path.write_bytes(b"Once upon a time there was a cat. " * 9)
    else:
        safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    assert_refused(*state)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.999])
def test_a_single_bit_that_fell_over_is_found(state, place):
    path, *_ = state
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)
    assert_refused(*state)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"model/model.norm.weight": torch.ones(33)}, "shape"),
        ({"model/model.norm.weight": torch.ones(32, dtype=torch.float64)}, "type F64"),
        ({"model/model.norm.weight": torch.full((32,), torch.nan)}, "not finite"),
        ({"model/other": torch.ones(1)}, "unknown tensor"),
        ({"optimizer/0/0/momentum_buffer": torch.full((32, 32), torch.inf)}, "not finite"),
        ({"optimizer/1/0/exp_avg_sq": -torch.ones(280, 32)}, "below 0"),
        ({"optimizer/1/0/step": torch.tensor(-1.0)}, "below 0"),
        ({"optimizer/9/0/step": torch.tensor(1.0)}, "unknown tensor"),
        ({"optimizer/a/b/c": torch.tensor(1.0)}, "unknown tensor"),
        ({"random/cpu": torch.zeros(7, dtype=torch.uint8)}, "shape"),
        ({"random/cpu": torch.zeros_like(torch.get_rng_state())}, "Invalid mt19937 state"),
    ],
)
def test_tensors_of_another_kind_are_refused(state, tensors, reason):
    rewrite(state[0], tensors)
    assert_refused(*state, reason)


@pytest.mark.parametrize("missing", ["random/cpu", "model/model.norm.weight", "optimizer/1/0/step"])
def test_a_tensor_that_is_missing_is_named(state, missing):
    rewrite(state[0], drop=[missing])
    assert_refused(*state, missing.rpartition("/")[0])


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "[]",
        "null",
        "{}",
        "{" * 9,
        "[" * 100_000,
        '{"settings": ' + "9" * 5_000 + "}",
        {"settings": None},
        {"settings": []},
        {"batches": -1},
        {"batches": 2.5},
        {"batches": 10**30},
        {"batches": "12"},
        {"batches": True},
        {"unfinished": None},
        {"unfinished": [3]},
        {"unfinished": [[1, 2, -3]]},
        {"unfinished": [[1, 2]]},
        {"share": float("nan")},
        {"share": -0.5},
        {"share": 1.5},
        {"share": None},
        {"scaler": 5},
        {"scaler": {"scale": float("inf")}},
        {"history": None},
        {"history": {"steps": []}},
        {"history": {"steps": [], "evaluations": []}},
        {"history": {"steps": [STEP], "evaluations": 5}},
        {"history": {"steps": [STEP | {"step": 2}], "evaluations": []}},
        {"history": {"steps": [STEP | {"loss": float("nan")}], "evaluations": []}},
        {"history": {"steps": [STEP | {"loss": "5"}], "evaluations": []}},
        {"history": {"steps": [STEP | {"more": 1}], "evaluations": []}},
        {"history": {"steps": [[1, 2]], "evaluations": []}},
        {"history": {"steps": [STEP], "evaluations": [EVALUATION | {"text": None}]}},
        {"history": {"steps": [STEP], "evaluations": [None]}},
    ],
    ids=lambda metadata: str(metadata)[:40],
)
def test_metadata_that_makes_no_sense_is_refused(state, metadata):
    rewrite(state[0], metadata=metadata)
    assert_refused(*state)


def test_no_memory_is_taken_for_tensors_of_absurd_size(state):
    path, *_ = state
    with safe_open(path, "pt") as file:
        facts = file.metadata()["facts"]
    size = 2**40
    header = {
        "__metadata__": {"facts": facts},
        "model/model.norm.weight": {
            "dtype": "F32",
            "shape": [size],
            "data_offsets": [0, 4 * size],
        },
    }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 4 * size)  # a hole: takes no disk
    assert_refused(*state)


def test_the_tensors_are_copies_so_that_the_file_can_be_replaced(state):
    path, model, optimizers = state
    tensors = read_tensors(path, model, optimizers)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    content = path.read_bytes()
    with path.open("r+b") as file:  # in place: a memory map would show it
        file.write(bytes(len(content)))
    assert all(torch.equal(tensors[name], tensor) for name, tensor in before.items())
