"""The state of a run on disk: saved at every evaluation, read and restored to resume."""

import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from slm.model.transformer import Transformer
from slm.training.optimizer import Optimizers
from slm.utils.files import write


def save_state(path: Path, model: Transformer, optimizers: Optimizers, facts: dict) -> None:
    """Keep, in one safetensors file, all that continuing a run needs; `facts` must fit JSON."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for weight, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{weight}/{name}": x for name, x in state.items()}
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    write(path, safetensors.torch.save(tensors, {"facts": json.dumps(facts)}))


def read_state(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the facts that `save_state` kept; ValueError where the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()["facts"])
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): train anew with fresh=True.") from None


def restore_state(tensors: dict[str, Tensor], model: Transformer, optimizers: Optimizers) -> None:
    """Put model, optimizers and random states back to what `save_state` saw."""
    model.load_state_dict({name: tensors[f"model/{name}"] for name in model.state_dict()})
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key in [key for key in tensors if key.startswith(f"optimizer/{number}/")]:
            weight, name = key.split("/")[2:]
            state.setdefault(int(weight), {})[name] = tensors[key]
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    torch.set_rng_state(tensors["random/cpu"])
    if torch.cuda.is_available() and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])
