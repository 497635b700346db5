"""Several processes, started by `torchrun`, that train one model together (optional)."""

import atexit
import io
import os
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn  # imported later, its default arguments would keep the group alive
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Result = TypeVar("Result")


@dataclass(frozen=True)
class ProcessGroup:
    """All processes that train one model; this one has `rank`, counted from 0.

    The process of rank 0 evaluates, saves and prints. A process alone is a group of one, in which
    nothing needs to be communicated.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def join(cls) -> "ProcessGroup":
        """Join the other processes that `torchrun` started, on this machine or on several."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group()  # nccl between GPUs, gloo between processors
            atexit.register(_leave)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this is the process that evaluates, saves and prints."""
        return self.rank == 0

    def in_turn(self, function: Callable[[], Result]) -> Result:
        """Call `function` in the first process of each machine, then in the machine's others.

        These find what the first one has cached, and what they print is dropped.
        """
        if self.world_size == 1:
            return function()
        if os.environ["LOCAL_RANK"] == "0":
            result = function()
            dist.barrier()
            return result
        dist.barrier()
        with redirect_stdout(io.StringIO()):
            return function()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, its gradients averaged over all processes in every backward pass."""
        return DistributedDataParallel(model) if self.world_size > 1 else model

    def mean(self, number: float) -> float:
        """The mean of every process's number."""
        if self.world_size == 1:
            return number
        total = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(total)
        return total.item() / self.world_size

    def broadcast(self, number: float) -> float:
        """The first process's number, in every process."""
        if self.world_size == 1:
            return number
        shared = torch.tensor(number, dtype=torch.float64)
        dist.broadcast(shared, src=0)
        return shared.item()


def _leave() -> None:
    """Leave the group while Python still runs.

    gloo's threads may hold tensors that belong to Python; a process in which one of them is freed
    too late ends by SIGABRT (pytorch/pytorch, pull request 179291).
    """
    if dist.is_initialized():
        dist.destroy_process_group()
