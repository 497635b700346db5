"""One step of learning: how fast, by which rule, in which precision."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.amp import GradScaler

from slm.batches import Batches
from slm.machine import pick_precision
from slm.model import Transformer
from slm.settings import check, check_choice

Optimizers = list[torch.optim.Optimizer]
BUDGETS = ("steps", "tokens", "minutes", "schedule")


@dataclass(frozen=True)
class TrainConfig:
    """How to train, and for how long, by exactly one of steps, tokens, minutes and schedule. Raises
    ValueError, naming the field, for values that make no sense."""

    steps: int | None = None  # budget in updates of the weights
    tokens: int | None = None  # budget in tokens read
    minutes: float | None = None  # budget in minutes by the clock, evaluations included
    schedule: tuple[float, ...] | None = None  # the learning rate of each step, to replay a run
    batch_size: int = 12  # rows of context_length tokens read at once
    grad_accumulation: int = 1  # batches read for one step
    optimizer: str = "muon"  # for the matrices: "muon", or "adamw" as for all the rest
    learning_rate: float = 0.01  # the peak
    warmup: float = 0.03  # share of the run in which the learning rate rises to its peak
    final_learning_rate: float = 0.0  # where it falls to by the end, as a share of the peak
    weight_decay: float = 0.1  # share of a matrix, times the learning rate, taken off each step
    grad_clip: float = 1.0  # longest gradient that is used at full length
    precision: str = "auto"  # "bfloat16", "float16", "float32", or the fastest that there is
    device: str = "auto"  # "cuda", "mps", "cpu", or the first of these that there is
    compile: bool | str = "auto"  # torch.compile; "auto": on a GPU, where it soon pays off
    evaluations: int = 10  # how often, evenly over the run, it is measured, sampled and kept
    evaluation_stories: int = 100  # validation stories measured each time
    seed: int = 0  # of the weights, the order of the stories and dropout
    teachers: str | None = None  # trained models to learn from too, "one" or "one,another"
    distillation: float = 0.5  # share of the loss that is about what the teachers expect

    def __post_init__(self):
        given = " and ".join(name for name in BUDGETS if getattr(self, name) is not None)
        if given not in BUDGETS:
            raise ValueError(f"Give one of {', '.join(BUDGETS)}; given: {given or 'none'}.")
        check(self, "steps", "tokens", "batch_size", "grad_accumulation", whole=True, low=1)
        check(self, "evaluations", "evaluation_stories", whole=True, low=1)
        check(self, "minutes", "learning_rate", "grad_clip")
        check(self, "warmup", "final_learning_rate", "weight_decay", "distillation", low=0, high=1)
        check(self, "seed", whole=True, low=0)
        check_choice("optimizer", self.optimizer, "muon", "adamw")
        check_choice("precision", self.precision, "auto", "bfloat16", "float16", "float32")
        check_choice("compile", self.compile, True, False, "auto")
        check_choice("device", self.device, "auto", "cuda", "mps", "cpu")
        if self.schedule == () or not all(0 <= rate < math.inf for rate in self.schedule or ()):
            raise ValueError("schedule must hold a learning rate of 0 or more for each step.")


def learning_rate_factor(progress: float, config: TrainConfig) -> float:
    """Share of the peak learning rate at `progress` (0 to 1): up in a line, then down in a line."""
    if progress < config.warmup:
        return progress / config.warmup
    falling = (progress - config.warmup) / max(1 - config.warmup, 1e-9)
    return 1 - (1 - config.final_learning_rate) * min(falling, 1.0)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Turn every singular value of `(..., rows, columns)` matrices to about 1, by the Newton-Schulz
    iteration of Jordan et al. 2024: only matrix products, so that it is fast, also in bfloat16."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.775 * gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), in
    steps as long as AdamW's (Liu et al. 2025, arXiv:2502.16982): torch.optim.Muon, but for all
    matrices of a shape at once, and in `dtype`, as emulated bfloat16 is 4 to 20 times slower."""

    def __init__(self, weights: Iterable[Tensor], weight_decay: float, dtype: torch.dtype):
        self.dtype = dtype
        super().__init__(weights, {"lr": 0.0, "momentum": 0.9, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix once."""
        for group in self.param_groups:
            alike, beta = defaultdict(list), group["momentum"]
            for weight in group["params"]:
                alike[weight.shape].append(weight)
            for shape, weights in alike.items():
                ahead = []
                for weight in weights:
                    if not self.state[weight]:
                        self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
                    momentum = self.state[weight]["momentum_buffer"].lerp_(weight.grad, 1 - beta)
                    ahead.append(weight.grad.lerp(momentum, beta).to(self.dtype))
                for weight, update in zip(weights, orthogonalize(torch.stack(ahead))):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(update, alpha=0.2 * max(shape) ** 0.5 * group["lr"])


def make_optimizers(model: Transformer, config: TrainConfig) -> Optimizers:
    """Muon for the blocks' matrices and AdamW for embeddings and norms; or AdamW for all."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.dim() == 2]
    inner, adamw = set(map(id, matrices)), {"betas": (0.8, 0.95), "eps": 1e-10, "fused": True}
    others = [weight for weight in model.parameters() if id(weight) not in inner]
    # A word's vector learns only when the word comes by: so twice the rate.
    rest = torch.optim.AdamW([{"params": others, "scale": 2.0}], weight_decay=0.0, **adamw)
    if config.optimizer == "adamw":
        group = {"params": matrices, "scale": 0.2}  # steps along the gradient must be shorter
        return [torch.optim.AdamW([group], weight_decay=config.weight_decay, **adamw), rest]
    dtype = pick_precision(config.precision, matrices[0].device.type)
    dtype = torch.float32 if dtype == torch.float16 else dtype  # float16 would overflow
    return [Muon(matrices, config.weight_decay, dtype), rest]


def train_step(
    model: Transformer,
    batches: Batches,
    optimizers: Optimizers,
    config: TrainConfig,
    rate: float,
    scaler: GradScaler | None = None,
) -> tuple[float, float]:
    """Read `grad_accumulation` batches, update the weights once at the learning rate `rate`, and
    give the loss and the gradient's norm. Raises ValueError where the loss is no number."""
    weights, total = list(model.parameters()), 0.0
    device, scaler = weights[0].device.type, scaler or GradScaler(enabled=False)
    dtype = pick_precision(config.precision, device)
    for _ in range(config.grad_accumulation):
        x, y = (part.to(device) for part in next(batches))  # (B, T), from teachers y (B, T, V)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten(0, 1))  # of (B T, V)
        scaler.scale(loss / config.grad_accumulation).backward()
        total += loss.item() / config.grad_accumulation
    if not math.isfinite(total):
        raise ValueError(f"The loss became {total}: train with a lower learning_rate.")
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(weights, config.grad_clip).item()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        scaler.step(optimizer)
        optimizer.zero_grad()
    scaler.update()
    return total, norm
