"""The state of a run in one file: saved at every evaluation, read and restored to resume."""

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
    """Save all that resuming a run needs in one safetensors file; `facts` must fit JSON."""
    tensors = {f"model/{name}": weight for name, weight in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for weight, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer/{number}/{weight}/{name}"] = value
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    write(path, safetensors.torch.save(tensors, {"facts": json.dumps(facts)}))


def read_state(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and facts that `save_state` saved; ValueError if the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()["facts"])
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): train anew with fresh=True.") from None


def restore_state(tensors: dict[str, Tensor], model: Transformer, optimizers: Optimizers) -> None:
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
