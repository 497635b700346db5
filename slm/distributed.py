"""Several processes, started by `torchrun`, that train one model together (optional)."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
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
        return cls(dist.get_rank(), dist.get_world_size())

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
