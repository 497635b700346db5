"""One optimizer step: micro-batches, loss, gradient clipping, update.

`slm.train` and `slm.finetune` both take their steps here.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

from slm.hardware.precision import pick_precision
from slm.settings import TrainConfig
from slm.training.optimizer import Optimizers


class DivergedError(ValueError):
    """The loss or the gradient is no longer a finite number: nothing can be learned from it."""


def make_scaler(config: TrainConfig, device: str) -> GradScaler:
    """The gradient scaler of a run: it does something only where the precision is float16.

    Gradients below 6e-8 are 0 in float16. The loss is multiplied by a large number before its
    backward pass, and the gradients are divided by it before the update (Micikevicius et al. 2017,
    arXiv:1710.03740). The same scaler belongs to all steps of a run, as it adapts that number.
    """
    uses_float16 = pick_precision(config.precision, device) == torch.float16
    return GradScaler(device, enabled=uses_float16)


def train_step(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    optimizers: Optimizers,
    config: TrainConfig,
    learning_rate: float,
    scaler: GradScaler,
) -> tuple[float, float]:
    """Update the weights once; return the loss before the update and the norm of the gradient.

    The gradient is accumulated over `config.grad_accumulation` micro-batches of `batches`: inputs
    `(B, T)` with targets `(B, T)`, or soft targets `(B, T, V)`. `scaler` is the run's, from
    `make_scaler`. Raises DivergedError, and leaves the weights alone, if the loss or the gradient
    is not finite.
    """
    weights = list(model.parameters())
    device = weights[0].device.type
    dtype = pick_precision(config.precision, device)

    micro_losses = []
    for number in range(1, config.grad_accumulation + 1):
        inputs, targets = next(batches)
        is_last = number == config.grad_accumulation
        with gradient_sync(model, is_last):
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                micro_loss = cross_entropy(model, inputs.to(device), targets.to(device))
            scaler.scale(micro_loss / config.grad_accumulation).backward()
        micro_losses.append(micro_loss.detach())
    # Only now: to read a number off a GPU waits until it is computed.
    loss = sum(micro_loss.item() / config.grad_accumulation for micro_loss in micro_losses)
    if not math.isfinite(loss):
        raise DivergedError(f"The loss became {loss}: train with a lower learning_rate.")

    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    grad_norm = torch.nn.utils.clip_grad_norm_(weights, config.grad_clip).item()
    if not math.isfinite(grad_norm) and not scaler.is_enabled():
        raise DivergedError(f"The gradient became {grad_norm}: train with a lower learning_rate.")
    set_learning_rate(optimizers, learning_rate)
    for optimizer in optimizers:
        scaler.step(optimizer)  # in float16, a step whose gradient overflowed is skipped
        optimizer.zero_grad()
    scaler.update()
    return loss, grad_norm


def gradient_sync(model: nn.Module, is_last: bool) -> AbstractContextManager:
    """Let several processes average their gradients in a step's last micro-batch only.

    DistributedDataParallel does so in every backward pass, unless `no_sync` tells it not to. The
    gradients of the micro-batches add up in each process, so that once a step is enough.
    """
    if is_last or not hasattr(model, "no_sync"):
        return nullcontext()
    return model.no_sync()


def cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean loss in nats per token; targets are token ids `(B, T)` or probabilities `(B, T, V)`."""
    logits = model(inputs)  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1))


def set_learning_rate(optimizers: Optimizers, learning_rate: float) -> None:
    """Set the learning rate of every parameter group, times the group's own `scale`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group.get("scale", 1.0)
