"""Distillation: a model learns not only from what came next, but from all that trained ones expect
there (optional)."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from slm.batches import Batches
from slm.checkpoint.loading import load_model
from slm.hardware.precision import pick_precision
from slm.model.transformer import Transformer
from slm.settings import TrainConfig
from slm.tokenizer.byte_pair import Tokenizer


def taught(
    batches: Batches, config: TrainConfig, student: Transformer, tokenizer: Tokenizer
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches whose targets are probabilities `(B, T, V)`: a share of `distillation` is what a
    teacher expects, and the rest is the token that came (Hinton et al. 2015, arXiv:1503.02531).
    Which other words would have done, a teacher knows, and a story does not say; a student that is
    told learns fewer stories by heart.

    Of several teachers each batch has one, drawn by how many stories were read so far. In the long
    run that is to learn from the mean of them all, in the time of one. Raises ValueError, at the
    call, for a teacher with another tokenizer or a shorter context, and as `load_model` where there
    is none.
    """
    device, teachers = student.model.embed_tokens.weight.device, []
    for name in str(config.teachers).split(","):
        teacher, own = load_model(name.strip())
        if own.digest != tokenizer.digest:
            raise ValueError(f"The teacher {name} has another tokenizer: give slm.train the same.")
        most, needed = teacher.config.context_length, student.config.context_length
        if most < needed:
            mend = f"set context_length to at most {most}"
            raise ValueError(f"The teacher {name} reads {most} tokens, not {needed}: {mend}.")
        teachers.append(teacher.to(device).requires_grad_(False))
    dtype = pick_precision(config.precision, device.type)

    def lesson(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = x.to(device), y.to(device).unsqueeze(-1)  # (B, T), (B, T, 1)
        teacher = np.random.default_rng(batches.state).choice(teachers)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            expected = teacher(x).float().softmax(-1) * config.distillation  # (B, T, V)
        came = expected.new_full(y.shape, 1 - config.distillation)
        return x, expected.scatter_add_(-1, y, came)

    return (lesson(x, y) for x, y in batches)
