"""One optimizer step: micro-batches, loss, gradient clipping, update."""

import math

import torch
import torch.nn.functional as F
from torch.amp import GradScaler

from slm.batches import Batches
from slm.hardware.precision import pick_precision
from slm.model.transformer import Transformer
from slm.settings import TrainConfig
from slm.training.optimizer import Optimizers


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
