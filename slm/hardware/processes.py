"""Several processes, started by `torchrun`, that train one model together (optional)."""

import atexit
import io
import os
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed.nn  # before joining: if later, its defaults keep the group from leaving
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Team:
    """Which process this is, counted from 0, and of how many. The first measures and saves."""

    rank: int
    size: int

    @classmethod
    def join(cls) -> "Team":
        """Meet the others that `torchrun` started, on this machine or on several."""
        if not dist.is_initialized():
            dist.init_process_group()  # nccl between GPUs, gloo between processors
            atexit.register(_leave)
        return cls(dist.get_rank(), dist.get_world_size())

    def in_turn(self, function: Callable):
        """Call `function` in the first process of each machine, then in its others, where it finds
        what the first one has kept, and has nothing to say. Gives what it gives."""
        first = os.environ["LOCAL_RANK"] == "0"
        if not first:
            dist.barrier()
        with nullcontext() if first else redirect_stdout(io.StringIO()):
            result = function()
        if first:
            dist.barrier()
        return result

    def share(self, model: nn.Module) -> nn.Module:
        """The model, its gradients averaged over all processes at every `backward`."""
        return DistributedDataParallel(model)

    def mean(self, number: float) -> float:
        """The mean of every process's number."""
        dist.all_reduce(total := torch.tensor(number, dtype=torch.float64))
        return total.item() / self.size

    def agree(self, number: float) -> float:
        """The first process's number, in every process."""
        dist.broadcast(number := torch.tensor(number, dtype=torch.float64), 0)
        return number.item()


def _leave() -> None:
    """Leave the others while Python still runs: gloo's threads may hold tensors of Python's, and a
    process in which one is freed too late ends by SIGABRT (pytorch/pytorch, pull request 179291).
    """
    if dist.is_initialized():
        dist.destroy_process_group()
