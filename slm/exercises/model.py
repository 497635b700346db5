"""Exercises about the parts of the transformer."""

import math

import torch
from torch import Tensor

from slm.exercises.checking import Exercise, Mistake, random_tensor


def softmax(scores: Tensor) -> Tensor:
    """Scores `(..., N)` to shares that add up to 1 in each row."""
    powers = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


SOFTMAX = Exercise(
    reference=softmax,
    inputs=(
        (torch.tensor([1.0, 2.0, 3.0]),),
        (torch.tensor([[0.0, -1.0], [3.0, 3.0]]),),
        (torch.tensor([1000.0, 999.0]),),
    ),
    mistakes=(
        Mistake(
            lambda scores: scores.exp() / scores.exp().sum(dim=-1, keepdim=True),
            "e to the 1000 is more than a computer can hold. Adding the same number to all scores "
            "changes nothing: take the largest away from each first.",
        ),
        Mistake(
            lambda scores: scores / scores.sum(dim=-1, keepdim=True),
            "Scores may be negative, shares may not: make them positive first, by e to the score.",
        ),
        Mistake(lambda scores: scores.exp(), "They do not add up to 1: divide by their sum."),
        Mistake(
            lambda scores: scores.exp() / scores.exp().sum(),
            "With several rows, each row must add up to 1: sum over the last dimension only.",
        ),
        Mistake(
            lambda scores: (scores - scores.max()).exp() / (scores - scores.max()).exp().sum(),
            "With several rows, each row must add up to 1: sum over the last dimension only.",
        ),
    ),
    hint="e to each score, divided by the sum of these; along the last dimension.",
)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Rows `(T, C)` divided by their root mean square, times a weight for each column."""
    size = (x.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return x / size * weight


def _layer_norm(x: Tensor, weight: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return rms_norm(centred, weight)


RMS_NORM = Exercise(
    reference=rms_norm,
    inputs=(
        (torch.tensor([[3.0, 4.0]]), torch.ones(2)),
        (random_tensor(3, 8, seed=0) * 5, random_tensor(8, seed=1)),
    ),
    mistakes=(
        Mistake(
            lambda x, weight: x / x.norm(dim=-1, keepdim=True) * weight,
            "You divide by the length, the root of the sum of squares: take the mean of them.",
        ),
        Mistake(
            _layer_norm,
            "You take the mean away first: that is LayerNorm. RMSNorm leaves it.",
        ),
        Mistake(
            lambda x, weight: rms_norm(x, torch.ones_like(weight)),
            "The size is right, but the learnt weight is not used: multiply by it at the end.",
        ),
        Mistake(
            lambda x, weight: x / x.pow(2).mean().sqrt() * weight,
            "All rows are divided by one number. Each token is normed by itself: mean over dim -1.",
        ),
        Mistake(
            lambda x, weight: x / x.pow(2).mean(dim=-1, keepdim=True) * weight,
            "You divide by the mean square: its root is missing.",
        ),
    ),
    hint="Square, mean over the last dimension (keepdim=True), root; divide by it; times weight.",
)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs (x[i], x[i + D/2]) of `x` `(D,)` by `angles` `(D/2,)`."""
    first, second = x.chunk(2)
    cos = angles.cos()
    sin = angles.sin()
    return torch.cat((first * cos - second * sin, first * sin + second * cos))


def _rotate_neighbours(x: Tensor, angles: Tensor) -> Tensor:
    first = x[0::2]
    second = x[1::2]
    turned_first = first * angles.cos() - second * angles.sin()
    turned_second = first * angles.sin() + second * angles.cos()
    return torch.stack((turned_first, turned_second), dim=-1).flatten()


ROTATION = Exercise(
    reference=rotate,
    inputs=(
        (torch.tensor([1.0, 0.0]), torch.tensor([math.pi / 2])),
        (random_tensor(6, seed=2), torch.tensor([0.3, 1.0, 2.0])),
    ),
    mistakes=(
        Mistake(
            lambda x, angles: rotate(x, -angles),
            "It turns the wrong way: (1, 0) turned by a quarter should be (0, 1). Mind the signs.",
        ),
        Mistake(
            _rotate_neighbours,
            "You turn neighbours, (0, 1), (2, 3) ... Here number i belongs to number i + D/2.",
        ),
        Mistake(
            lambda x, angles: x * torch.cat((angles, angles)).cos(),
            "The cosines are there; the sines, which carry each number into its partner, are not.",
        ),
    ),
    hint="With (a, b) a pair: a cos - b sin, and a sin + b cos. The pairs are the two halves.",
)


def causal_mask(scores: Tensor) -> Tensor:
    """Scores `(T, T)` with minus infinity wherever a row would look ahead."""
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf"))


def _mask_with(value: float, above: bool, diagonal: int) -> Mistake:
    def masked(scores: Tensor) -> Tensor:
        every = torch.ones_like(scores, dtype=torch.bool)
        hidden = every.triu(diagonal) if above else every.tril(diagonal)
        return scores.masked_fill(hidden, value)

    return masked


CAUSAL_MASK = Exercise(
    reference=causal_mask,
    inputs=((torch.tensor([[1.0, 2.0], [3.0, 4.0]]),), (random_tensor(4, 4, seed=3),)),
    mistakes=(
        Mistake(
            _mask_with(float("-inf"), above=True, diagonal=0),
            "A token may look at itself: leave the diagonal, or the first row has nothing.",
        ),
        Mistake(
            _mask_with(0.0, above=True, diagonal=1),
            "Softmax gives a score of 0 a share too: only minus infinity gives nothing.",
        ),
        Mistake(
            _mask_with(float("-inf"), above=False, diagonal=-1),
            "You hide the past. The row looks, the column is looked at: hide later columns.",
        ),
        Mistake(
            lambda scores: scores.tril(),
            "Softmax gives a score of 0 a share too: only minus infinity gives nothing.",
        ),
    ),
    hint="torch.ones(T, T).triu(1) marks what is above the diagonal; masked_fill fills it.",
)


def attention(q: Tensor, k: Tensor, v: Tensor, scaled: bool = True, causal: bool = True) -> Tensor:
    """Causal attention of queries to keys and values, `(T, D)` each."""
    scores = q @ k.T
    if scaled:
        scores = scores / math.sqrt(q.shape[-1])
    if causal:
        scores = causal_mask(scores)
    return scores.softmax(dim=-1) @ v


def _attention_over_columns(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = causal_mask(q @ k.T / math.sqrt(q.shape[-1]))
    return scores.softmax(dim=0) @ v


ATTENTION = Exercise(
    reference=attention,
    inputs=(tuple(random_tensor(3, 5, 4, seed=4)), tuple(random_tensor(3, 2, 16, seed=5))),
    mistakes=(
        Mistake(
            lambda q, k, v: attention(q, k, v, scaled=False),
            "The scores are not divided by the root of the head size, q.shape[-1].",
        ),
        Mistake(
            lambda q, k, v: attention(q, k, v, causal=False),
            "The first token should see only itself, but it sees later ones: where is the mask?",
        ),
        Mistake(
            lambda q, k, v: attention(q, k, v, scaled=False, causal=False),
            "Two steps between q @ k.T and softmax are missing: the division, and the mask.",
        ),
        Mistake(
            _attention_over_columns,
            "The columns add up to 1. Each row belongs to a token that looks: softmax over dim -1.",
        ),
        Mistake(
            lambda q, k, v: attention(k, q, v),
            "Queries and keys are swapped: a row of the scores belongs to a query.",
        ),
    ),
    hint="q @ k.T, divided by the root of D; mask; softmax along the rows; times v.",
)


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """Vectors `(T, C)` to heads `(H, T, D)`: each head gets D neighbouring numbers."""
    T, C = x.shape
    return x.view(T, n_heads, C // n_heads).transpose(0, 1)


HEADS = Exercise(
    reference=split_heads,
    inputs=((torch.arange(24.0).view(3, 8), 2), (torch.arange(16.0).view(2, 8), 4)),
    mistakes=(
        Mistake(
            lambda x, n_heads: x.reshape(n_heads, x.shape[0], x.shape[1] // n_heads),
            "The shape is right, but numbers of different tokens are mixed: split the last "
            "dimension first, then swap two dimensions with transpose.",
        ),
        Mistake(
            lambda x, n_heads: x.view(x.shape[0], n_heads, x.shape[1] // n_heads),
            "It is split; now the heads must come first: transpose.",
        ),
        Mistake(
            lambda x, n_heads: x.view(x.shape[0], -1, n_heads).permute(2, 0, 1),
            "Each head should get neighbouring numbers, 0 to D - 1, not every H-th one.",
        ),
    ),
    hint="View (T, C) as (T, H, D), and swap the first two dimensions.",
)
