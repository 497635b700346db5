"""The state of a run in one file: saved at every evaluation, read and restored to resume.

It is a safetensors file: tensors, which are the weights, the optimizers' moving averages and the
states of the random generators, and a header. The header has the metadata (settings, place in the
data, history) as JSON under "facts", and a digest of everything. Nothing in it is trusted: the
digest, the metadata, and the names, shapes and types of the tensors are checked before memory is
taken for them.
"""

import hashlib
import json
import math
from dataclasses import fields
from numbers import Real
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from slm.checkpoint.weights import LARGEST_WEIGHT
from slm.model.transformer import Transformer
from slm.training.history import Step, StepEvaluation
from slm.training.optimizer import Optimizers, state_names
from slm.utils.files import write

DTYPES = {"F32": torch.float32, "U8": torch.uint8}  # safetensors' names
LARGEST_COUNT = 2**53  # beyond, counts are not exact in JSON


def save_state(path: Path, model: Transformer, optimizers: Optimizers, metadata: dict) -> None:
    """Save all that resuming a run needs; `metadata` must fit JSON."""
    tensors = {f"model/{name}": weight for name, weight in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        names = state_names(optimizer)
        for weight, state in optimizer.state_dict()["state"].items():
            for name in sorted(names & state.keys()):
                tensors[f"optimizer/{number}/{weight}/{name}"] = state[name]
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata_json = json.dumps(metadata)
    header = {"facts": metadata_json, "digest": state_digest(metadata_json, tensors)}
    write(path, safetensors.torch.save(tensors, header))


def state_digest(metadata: str, tensors: dict[str, Tensor]) -> str:
    """A fingerprint of everything in a state file: its metadata, as JSON, and its tensors."""
    digest = hashlib.blake2b(metadata.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_metadata(path: Path) -> dict:
    """The metadata that `save_state` saved; ValueError if it is damaged or makes no sense."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
        metadata = json.loads(header["facts"])
        _check_metadata(metadata)
    except KeyError as error:
        raise damage_error(path, f"there is no {error}") from None
    except (SafetensorError, OSError, TypeError, ValueError, RuntimeError) as error:
        raise damage_error(path, error) from None
    return metadata


def read_tensors(path: Path, model: Transformer, optimizers: Optimizers) -> dict[str, Tensor]:
    """The tensors that `save_state` saved, of such a model and such optimizers.

    Raises ValueError, which says what is wrong, if the file is damaged or of another model. Files
    of earlier versions have no digest: all else is checked.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            _check_tensors(file, model, optimizers)
            # Copies: on Windows, a file that tensors map into memory could not be replaced.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if "digest" in header and header["digest"] != state_digest(header["facts"], tensors):
            raise ValueError("its content and its digest differ")
        _check_numbers(tensors)
        torch.Generator().set_state(tensors["random/cpu"])  # RuntimeError if it is no such state
    except KeyError as error:
        raise damage_error(path, f"there is no {error}") from None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise damage_error(path, error) from None
    return tensors


def restore_tensors(tensors: dict[str, Tensor], model: Transformer, optimizers: Optimizers) -> None:
    """Set model, optimizers and random generators back to what `save_state` saved."""
    model.load_state_dict({name: tensors[f"model/{name}"] for name in model.state_dict()})
    for number, optimizer in enumerate(optimizers):
        prefix = f"optimizer/{number}/"
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(prefix):
                weight, name = key.removeprefix(prefix).split("/")
                state.setdefault(int(weight), {})[name] = value
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    torch.set_rng_state(tensors["random/cpu"])
    if torch.cuda.is_available() and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])


def damage_error(path: Path, reason: object) -> ValueError:
    """The error that a state file cannot be used, with the reason in one line."""
    words = " ".join(str(reason).split())[:200]
    return ValueError(f"{path} is damaged ({words}): start over with fresh=True.")


def _check_tensors(file: safe_open, model: Transformer, optimizers: Optimizers) -> None:
    """Raise ValueError unless the file has the tensors it should, judging by its header."""
    expected = _expected_tensors(model, optimizers)
    found = set(file.keys())
    optional = {name for name in expected if name.startswith("optimizer/")} | {"random/cuda"}
    unknown = found - set(expected)
    if unknown:
        raise ValueError(f"it has an unknown tensor {min(unknown)!r:.80}")
    missing = set(expected) - optional - found
    if missing:
        raise ValueError(f"it has no tensor {min(missing)!r}")
    for name in found:
        part = file.get_slice(name)
        shape, dtype = expected[name]
        if DTYPES.get(part.get_dtype()) != dtype:
            raise ValueError(f"{name} has the type {part.get_dtype()}")
        if shape is not None and tuple(part.get_shape()) != shape:
            raise ValueError(f"{name} has the shape {part.get_shape()}, not {list(shape)}")
    for number, optimizer in enumerate(optimizers):
        _check_optimizer_is_whole(found, number, optimizer)


def _expected_tensors(model: Transformer, optimizers: Optimizers) -> dict[str, tuple]:
    """Shape, if known, and type of every tensor that a state may have."""
    expected = {
        "random/cpu": (tuple(torch.get_rng_state().shape), torch.uint8),
        "random/cuda": (None, torch.uint8),
    }
    for name, weight in model.state_dict().items():
        expected[f"model/{name}"] = (tuple(weight.shape), torch.float32)
    for number, optimizer in enumerate(optimizers):
        for index, weight in enumerate(_weights(optimizer)):
            for name in state_names(optimizer):
                shape = () if name == "step" else tuple(weight.shape)
                expected[f"optimizer/{number}/{index}/{name}"] = (shape, torch.float32)
    return expected


def _check_optimizer_is_whole(found: set[str], number: int, optimizer: object) -> None:
    """A weight has all of its optimizer's tensors, or, where no step counted yet, none of them."""
    for index in range(len(_weights(optimizer))):
        names = state_names(optimizer)
        names_found = {name for name in names if f"optimizer/{number}/{index}/{name}" in found}
        if names_found and names_found != names:
            raise ValueError(f"it has only a part of optimizer/{number}/{index}")


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _check_numbers(tensors: dict[str, Tensor]) -> None:
    """Raise ValueError for numbers that no step can have left."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} has numbers that are not finite")
        if name.startswith("model/") and tensor.abs().max() > LARGEST_WEIGHT:
            raise ValueError(f"{name} has a number as large as {tensor.abs().max():.0e}")
        if name.endswith(("/step", "/exp_avg_sq")) and (tensor < 0).any():
            raise ValueError(f"{name} has numbers below 0")


def _check_metadata(metadata: object) -> None:
    """Raise ValueError, TypeError or KeyError unless the metadata is of the kind that is saved."""
    if not isinstance(metadata, dict) or not isinstance(metadata["settings"], dict):
        raise TypeError("its metadata has no settings")
    _check_number("share", metadata["share"], largest=1)
    _check_count("batches", metadata["batches"])
    for record in metadata.get("unfinished", []):
        _check_unfinished(record)
    _check_scaler(metadata.get("scaler", {}))
    steps = metadata["history"]["steps"]
    evaluations = metadata["history"]["evaluations"]
    if not steps:
        raise ValueError("its history has no steps")
    for number, step in enumerate(steps, start=1):
        _check_record(step, Step)
        if step["step"] != number:
            raise ValueError(f"its history has no step {number}")
    for evaluation in evaluations:
        _check_record(evaluation, StepEvaluation)


def _check_unfinished(record: object) -> None:
    """Three counts: in how many rows a story goes on, which one, and how much of it was read."""
    if not isinstance(record, list) or len(record) != 3:
        raise ValueError("its unfinished stories are no records")
    for value in record:
        _check_count("unfinished story", value)


def _check_record(record: dict, kind: type) -> None:
    """A step or an evaluation has its fields and no others, each of its type."""
    if not isinstance(record, dict) or record.keys() != {field.name for field in fields(kind)}:
        raise ValueError(f"a {kind.__name__} in its history has other fields")
    for field in fields(kind):
        value = record[field.name]
        if field.type is str:
            if not isinstance(value, str):
                raise TypeError(f"its history has {value!r:.40} for {field.name}")
        elif field.name in ("step", "tokens"):
            _check_count(field.name, value)
        elif field.name == "grad_norm" and value == math.inf:
            continue  # a float16 step that overflowed and was skipped
        else:
            _check_number(field.name, value)


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value < LARGEST_COUNT:
        raise ValueError(f"its {name} is {value!r:.40}")


def _check_number(name: str, value: object, largest: float = 1e30) -> None:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= largest:
        raise ValueError(f"its {name} is {value!r:.40}")


def _check_scaler(scaler: object) -> None:
    if not isinstance(scaler, dict):
        raise TypeError("its scaler is no record")
    for name, value in scaler.items():
        _check_number(f"scaler's {name}", value)
