"""One step of learning: how fast, by which rule, in which precision."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from slm.batches import Batches
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
    weight_decay: float = 0.0  # share of a matrix, times the learning rate, taken off each step
    grad_clip: float = 1.0  # longest gradient that is used at full length
    precision: str = "auto"  # "bfloat16", "float32", or bfloat16 where the hardware has it
    device: str = "auto"  # "cuda", "mps", "cpu", or the first of these that there is
    compile: bool = False  # torch.compile: pays off in long runs on a GPU
    evaluations: int = 10  # how often, evenly over the run, it is measured, sampled and kept
    evaluation_stories: int = 100  # validation stories measured each time
    seed: int = 0  # of the weights, the order of the stories and dropout

    def __post_init__(self):
        given = " and ".join(name for name in BUDGETS if getattr(self, name) is not None)
        if given not in BUDGETS:
            raise ValueError(f"Give one of {', '.join(BUDGETS)}; given: {given or 'none'}.")
        check(self, "steps", "tokens", "batch_size", "grad_accumulation", whole=True, low=1)
        check(self, "evaluations", "evaluation_stories", whole=True, low=1)
        check(self, "minutes", "learning_rate", "grad_clip")
        check(self, "warmup", "final_learning_rate", "weight_decay", low=0, high=1)
        check(self, "seed", whole=True, low=0)
        check_choice("optimizer", self.optimizer, "muon", "adamw")
        check_choice("precision", self.precision, "auto", "bfloat16", "float32")
        check_choice("device", self.device, "auto", "cuda", "mps", "cpu")
        if self.schedule == () or not all(0 <= rate < math.inf for rate in self.schedule or ()):
            raise ValueError("schedule must hold a learning rate of 0 or more for each step.")


def learning_rate_factor(progress: float, config: TrainConfig) -> float:
    """Share of the peak learning rate at `progress` (0 to 1): up in a line, then down in a line."""
    if progress < config.warmup:
        return progress / config.warmup
    falling = (progress - config.warmup) / max(1 - config.warmup, 1e-9)
    return 1 - (1 - config.final_learning_rate) * min(falling, 1.0)


def pick_device(config: TrainConfig) -> str:
    """The device that the configuration names, or the best there is."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return next(filter(there.get, there), "cpu") if config.device == "auto" else config.device


def uses_bfloat16(config: TrainConfig, device: str) -> bool:
    """Whether to compute in bfloat16. "auto" does where the hardware itself does; where it is
    emulated, as on a T4 or a processor without AVX512-BF16, float32 is faster."""
    if config.precision != "auto":
        return config.precision == "bfloat16"
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    modern = torch.backends.cpu.get_cpu_capability() == "AVX512"  # or less, by ATEN_CPU_CAPABILITY
    return device == "cpu" and modern and torch.cpu._is_avx512_bf16_supported()


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """About the nearest matrix whose singular values are all 1 (Newton-Schulz, as in Muon)."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.775 * gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Float32Muon(torch.optim.Muon):
    """PyTorch's Muon in float32: its bfloat16 is 4 to 20 times slower where it is emulated."""

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix once."""
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                momentum = state.setdefault("momentum_buffer", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalize(weight.grad.lerp(momentum, group["momentum"]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update, alpha=0.2 * max(weight.shape) ** 0.5 * group["lr"])


def make_optimizers(model: Transformer, config: TrainConfig) -> Optimizers:
    """Muon for the blocks' matrices and AdamW for embeddings and norms, or AdamW for all. Muon
    (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) turns each matrix's momentum
    into the nearest orthogonal one, so that no direction is neglected; its steps are made as long
    as AdamW's (Liu et al. 2025, arXiv:2502.16982), so that one learning rate does for both."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.dim() == 2]
    inner = set(map(id, matrices))
    others = [weight for weight in model.parameters() if id(weight) not in inner]
    adamw, decay = {"betas": (0.9, 0.95), "fused": True}, {"weight_decay": config.weight_decay}
    rest = torch.optim.AdamW(others, weight_decay=0.0, **adamw)
    if config.optimizer == "adamw":
        return [torch.optim.AdamW(matrices, **decay, **adamw), rest]
    low = uses_bfloat16(config, matrices[0].device.type)
    muon = torch.optim.Muon if low else Float32Muon
    return [muon(matrices, adjust_lr_fn="match_rms_adamw", **decay), rest]


def train_step(
    model: Transformer, batches: Batches, optimizers: Optimizers, config: TrainConfig, rate: float
) -> tuple[float, float]:
    """Read `grad_accumulation` batches, update the weights once at the learning rate `rate`, and
    give the loss and the gradient's norm. Raises ValueError where the loss is no number."""
    weights, total = list(model.parameters()), 0.0
    device = weights[0].device.type
    for _ in range(config.grad_accumulation):
        x, y = (part.to(device) for part in next(batches))  # (B, T)
        with torch.autocast(device, torch.bfloat16, enabled=uses_bfloat16(config, device)):
            logits = model(x)  # (B, T, V)
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten()) / config.grad_accumulation
        loss.backward()
        total += loss.item()
    if not math.isfinite(total):
        raise ValueError(f"The loss became {total}: train with a lower learning_rate.")
    norm = torch.nn.utils.clip_grad_norm_(weights, config.grad_clip).item()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    return total, norm
