"""Sampling: from logits to the next token by temperature, top-k, top-p and min-p."""

import math

import torch
from torch import Tensor

from slm.settings import SamplingConfig


def next_token_probabilities(
    logits: Tensor, sampling: SamplingConfig, previous: Tensor | None = None
) -> Tensor:
    """Logits `(B, V)` of the next token to the probabilities `(B, V)` that it is drawn from.
    `previous` `(B, S)` are the ids that the repetition penalty (Keskar et al. 2019, CTRL,
    arXiv:1909.05858) holds down. Then temperature, top-k (Fan et al. 2018, arXiv:1805.04833), top-p
    (Holtzman et al. 2020, arXiv:1904.09751) and min-p (Nguyen et al. 2024, arXiv:2407.01082) apply,
    in this order, each to what the one before it left."""
    logits = logits.float()
    if sampling.repetition_penalty != 1 and previous is not None:
        seen, penalty = logits.gather(1, previous), sampling.repetition_penalty
        seen = torch.where(seen > 0, seen / penalty, seen * penalty)
        logits = logits.scatter(1, previous, seen)
    if sampling.temperature < 1e-6:
        return torch.zeros_like(logits).scatter(1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits / sampling.temperature
    if sampling.top_k and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p is not None:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        dropped = probabilities.cumsum(-1) - probabilities >= sampling.top_p
        dropped[:, 0] = False  # the likeliest always stays
        logits = logits.masked_fill(dropped.gather(1, order.argsort()), float("-inf"))
    if sampling.min_p:  # a share of probabilities is a distance of logits
        least = logits.amax(-1, keepdim=True) + math.log(sampling.min_p)
        logits = logits.masked_fill(logits < least, float("-inf"))
    return logits.softmax(-1)


def draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """One id for each row of probabilities `(B, V)`: the one in whose share of the whole a random
    number falls. Ten times as fast as `torch.multinomial`, which draws one for each of the V."""
    borders = probabilities.cpu().double().cumsum(-1)  # (B, V)
    at = torch.rand(len(borders), 1, dtype=torch.float64, generator=generator) * borders[:, -1:]
    return torch.searchsorted(borders, at, right=True).squeeze(1)  # (B,)
