"""Distillation: the model learns from trained models too, not only from the text (optional)."""

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


def add_soft_targets(
    batches: Batches, config: TrainConfig, student: Transformer, tokenizer: Tokenizer
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches, with soft targets `(B, T, V)` in place of the target ids `(B, T)`.

    A share of `config.distillation` of each target is the distribution that a teacher expects, the
    rest is the token that follows in the text (Hinton et al. 2015, arXiv:1503.02531). A teacher
    knows which other words would have done, and a story does not say; its student learns fewer
    stories by heart.

    Of several teachers each batch has one, drawn at random: in the long run the student learns from
    the mean of them all, in the time of one. Raises ValueError, at the call, for a teacher with
    another tokenizer or a shorter context, and as `load_model` where there is none.
    """
    teachers = load_teachers(config, student, tokenizer)
    return _soft_batches(batches, config, teachers)


def load_teachers(
    config: TrainConfig, student: Transformer, tokenizer: Tokenizer
) -> list[Transformer]:
    """The models that `config.teachers` names, on the student's device."""
    device = student.device
    needed = student.config.context_length
    teachers = []
    for name in str(config.teachers).split(","):
        teacher, teacher_tokenizer = load_model(name.strip())
        if teacher_tokenizer.digest != tokenizer.digest:
            raise ValueError(f"The teacher {name} has another tokenizer: give slm.train the same.")
        context_length = teacher.config.context_length
        if context_length < needed:
            raise ValueError(
                f"The teacher {name} reads {context_length} tokens, not {needed}: "
                f"set context_length to at most {context_length}."
            )
        teachers.append(teacher.to(device).requires_grad_(False))
    return teachers


def _soft_batches(
    batches: Batches, config: TrainConfig, teachers: list[Transformer]
) -> Iterator[tuple[Tensor, Tensor]]:
    device = teachers[0].device
    dtype = pick_precision(config.precision, device.type)
    for inputs, targets in batches:
        inputs = inputs.to(device)  # (B, T)
        # Seeded by the place in the data, so that a resumed run draws the same teachers.
        ids_read = sum(read for _, _, read in batches.unfinished)
        generator = np.random.default_rng(batches.stories_drawn + ids_read)
        teacher = generator.choice(teachers)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = teacher(inputs)  # (B, T, V)
        yield inputs, soft_targets(logits, targets.to(device), config.distillation)


def soft_targets(teacher_logits: Tensor, targets: Tensor, share: float) -> Tensor:
    """Mix what a teacher expects with the tokens that follow: logits and ids to probabilities."""
    expected = teacher_logits.float().softmax(-1) * share  # (B, T, V)
    ids = targets.unsqueeze(-1)  # (B, T, 1)
    rest = expected.new_full(ids.shape, 1 - share)
    return expected.scatter_add_(-1, ids, rest)
