"""One optimizer step: micro-batches, loss, gradient clipping, update.

`slm.train` and `slm.finetune` both take their steps here.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.amp import GradScaler

from slm.hardware.precision import pick_precision
from slm.model.transformer import Transformer
from slm.settings import TrainConfig
from slm.training.optimizer import Optimizers


def train_step(
    model: Transformer,
    batches: Iterator[tuple[Tensor, Tensor]],
    optimizers: Optimizers,
    config: TrainConfig,
    learning_rate: float,
    scaler: GradScaler | None = None,
) -> tuple[float, float]:
    """Update the weights once; return the loss before the update and the norm of the gradient.

    The gradient is accumulated over `config.grad_accumulation` micro-batches of `batches`: inputs
    `(B, T)` with targets `(B, T)`, or soft targets `(B, T, V)`. `scaler` keeps the small gradients
    of float16 above zero. Raises ValueError, and leaves the weights alone, if loss or gradient are
    not finite.
    """
    scaler = scaler or GradScaler(enabled=False)
    weights = list(model.parameters())
    device = weights[0].device.type
    dtype = pick_precision(config.precision, device)

    loss = 0.0
    for _ in range(config.grad_accumulation):
        inputs, targets = next(batches)
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            micro_loss = cross_entropy(model, inputs.to(device), targets.to(device))
        scaler.scale(micro_loss / config.grad_accumulation).backward()
        loss += micro_loss.item() / config.grad_accumulation
    if not math.isfinite(loss):
        raise ValueError(f"The loss became {loss}: train with a lower learning_rate.")

    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    grad_norm = torch.nn.utils.clip_grad_norm_(weights, config.grad_clip).item()
    if not math.isfinite(grad_norm) and not scaler.is_enabled():
        raise ValueError(f"The gradient became {grad_norm}: train with a lower learning_rate.")
    set_learning_rate(optimizers, learning_rate)
    for optimizer in optimizers:
        scaler.step(optimizer)  # in float16, a step whose gradient overflowed is skipped
        optimizer.zero_grad()
    scaler.update()
    return loss, grad_norm


def cross_entropy(model: Transformer, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean loss in nats per token; targets are token ids `(B, T)` or probabilities `(B, T, V)`."""
    logits = model(inputs)  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1))


def set_learning_rate(optimizers: Optimizers, learning_rate: float) -> None:
    """Set the learning rate of every parameter group, times the group's own `scale`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group.get("scale", 1.0)
