"""Sampling: from the model's logits to the next token, in small steps.

Shapes: B rows (one story each), V tokens in the vocabulary. A step takes logits `(B, V)` and
returns logits `(B, V)`; a token that it rules out gets minus infinity.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from slm.settings import SamplingConfig

GREEDY_BELOW = 1e-6  # a lower temperature means: always the likeliest token
DRY_ALLOWED_LENGTH = 2  # tokens: to go on with a shorter run is not penalized
DRY_BASE = 1.75  # how many times larger each further token of the run makes the penalty
DRY_LONGEST_RUN = 50  # tokens: a longer one changes nothing but the time taken


def new_generator(seed: int | None) -> torch.Generator:
    """A generator of random numbers that starts from `seed`, or from a new one each time (None)."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def ids_to_penalize(
    rows: Sequence[Sequence[int]], sampling: SamplingConfig, end_ids: Sequence[int]
) -> list[Sequence[int]] | None:
    """The ids of each row that penalties apply to: all that have occurred in the story.

    None where `sampling` has no penalty.

    Where the token that begins the story can also end it, that first one does not count: otherwise
    the repetition penalty would make the end of the story less likely.
    """
    if sampling.repetition_penalty == 1 and sampling.dry_multiplier == 0:
        return None
    return [ids[1:] if ids[0] in end_ids else ids for ids in rows]


def apply_repetition_penalty(
    logits: Tensor, previous: Sequence[Sequence[int]], penalty: float
) -> Tensor:
    """Make the tokens that have occurred in a row, its `previous` ids, less likely.

    A positive logit is divided by the penalty, a negative one multiplied (Keskar et al. 2019, CTRL,
    arXiv:1909.05858).
    """
    logits = logits.clone()
    for row, ids in enumerate(previous):
        seen = torch.tensor(ids, dtype=torch.long, device=logits.device)  # (S,)
        scores = logits[row, seen]  # (S,)
        logits[row, seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits


def repeated_runs(ids: Sequence[int]) -> dict[int, int]:
    """Map each token that would extend a repetition to the length of that repetition.

    In `A B C … A B`, the newest run `A B` has occurred before, and `C` followed it: `{C: 2}`.
    Lengths are capped at DRY_LONGEST_RUN.
    """
    lengths = {}
    newest = len(ids) - 1
    places = [place for place, id in enumerate(ids[:-1]) if id == ids[-1]]
    for place in places:
        longest = min(place + 1, DRY_LONGEST_RUN)
        length = 1
        while length < longest and ids[place - length] == ids[newest - length]:
            length += 1
        following = ids[place + 1]
        lengths[following] = max(length, lengths.get(following, 0))
    return lengths


def apply_dry(logits: Tensor, previous: Sequence[Sequence[int]], multiplier: float) -> Tensor:
    """Make the tokens less likely that would repeat a run of tokens of the row's `previous` ids.

    The longer the run, the more is taken off the logit: `multiplier` for DRY_ALLOWED_LENGTH tokens,
    and DRY_BASE times as much for each further one. So single words may come again, but a loop
    becomes less likely each time round. (DRY, "don't repeat yourself": P. E. Weidmann 2024,
    https://github.com/oobabooga/text-generation-webui/pull/5677; also in llama.cpp. Unlike there,
    there are no sequence breakers here, and the prompt counts too.)
    """
    rows = []
    tokens = []
    penalties = []
    for row, ids in enumerate(previous):
        for token, length in repeated_runs(ids).items():
            if length >= DRY_ALLOWED_LENGTH:
                rows.append(row)
                tokens.append(token)
                penalties.append(multiplier * DRY_BASE ** (length - DRY_ALLOWED_LENGTH))
    if not rows:
        return logits
    logits = logits.clone()
    logits[rows, tokens] -= torch.tensor(penalties, dtype=logits.dtype, device=logits.device)
    return logits


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharpen the distribution (a temperature below 1) or flatten it (above 1)."""
    return logits / temperature


def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the `k` likeliest tokens (Fan et al. 2018, arXiv:1805.04833)."""
    k = min(k, logits.shape[-1])
    lowest_kept = logits.topk(k).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < lowest_kept, -math.inf)


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the nucleus: the fewest likeliest tokens whose probabilities add up to at least `p`.

    (Holtzman et al. 2020, arXiv:1904.09751)
    """
    ordered, order = logits.sort(descending=True)  # (B, V) each
    probabilities = ordered.softmax(-1)
    probability_before = probabilities.cumsum(-1) - probabilities  # of all likelier tokens
    dropped = probability_before >= p
    dropped[:, 0] = False  # the likeliest always stays
    dropped = dropped.gather(1, order.argsort())  # back in the vocabulary's order
    return logits.masked_fill(dropped, -math.inf)


def apply_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Keep the tokens that are at least `min_p` times as likely as the likeliest one.

    (Nguyen et al. 2024, arXiv:2407.01082.) A ratio of probabilities is a difference of logits.
    """
    lowest_kept = logits.amax(-1, keepdim=True) + math.log(min_p)  # (B, 1)
    return logits.masked_fill(logits < lowest_kept, -math.inf)


def next_token_probabilities(
    logits: Tensor, sampling: SamplingConfig, previous: Sequence[Sequence[int]] | None = None
) -> Tensor:
    """The probabilities `(B, V)` that the next token is drawn from, given its logits `(B, V)`.

    `previous` are the ids that have occurred in each row, which the penalties need. Each step
    works on the result of the one before it, in the same order as in transformers.
    """
    logits = logits.float()
    if previous is not None and sampling.repetition_penalty != 1:
        logits = apply_repetition_penalty(logits, previous, sampling.repetition_penalty)
    if previous is not None and sampling.dry_multiplier > 0:
        logits = apply_dry(logits, previous, sampling.dry_multiplier)
    if sampling.temperature < GREEDY_BELOW:
        likeliest = logits.argmax(-1, keepdim=True)  # (B, 1)
        return torch.zeros_like(logits).scatter(1, likeliest, 1.0)
    logits = apply_temperature(logits, sampling.temperature)
    if sampling.top_k is not None:
        logits = apply_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = apply_top_p(logits, sampling.top_p)
    if sampling.min_p:
        logits = apply_min_p(logits, sampling.min_p)
    return logits.softmax(-1)


def draw(probabilities: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one id for each row of probabilities `(B, V)`: ids `(B,)`.

    Each of the n generators draws for B / n rows: the first for the first B / n, and so on. The
    tokens' probabilities divide the range from 0 to 1, and a random number falls into the part of
    one token. That is ten times as fast as `torch.multinomial`, which draws V random numbers.

    Raises ValueError where a row's probabilities are no numbers.
    """
    upper_ends = probabilities.cpu().double().cumsum(-1)  # (B, V)
    rows_each = len(probabilities) // len(generators)
    uniform = torch.cat(
        [
            torch.rand(rows_each, 1, dtype=torch.float64, generator=generator)
            for generator in generators
        ]
    )  # (B, 1), from 0 to 1
    whole = upper_ends[:, -1:]  # (B, 1): 1, up to rounding
    _check_finite(whole)
    return torch.searchsorted(upper_ends, uniform * whole, right=True).squeeze(1)  # (B,)


def choose_ids(
    logits: Tensor,
    sampling: SamplingConfig,
    generators: Sequence[torch.Generator],
    previous: Sequence[Sequence[int]] | None = None,
) -> list[int]:
    """Choose the next id of each row from its logits `(B, V)`.

    For the other arguments see `next_token_probabilities` and `draw`. Raises ValueError where the
    logits are no numbers, as of a model whose weights are NaN.
    """
    if sampling.temperature < GREEDY_BELOW:
        _check_finite(logits.amax(-1))  # NaN where any logit is
        if previous is None:
            return logits.argmax(-1).tolist()  # nothing to draw
    return draw(next_token_probabilities(logits, sampling, previous), generators).tolist()


def _check_finite(values: Tensor) -> None:
    """Raise ValueError where the model's scores were NaN or infinite: no token can be chosen."""
    if not values.isfinite().all():
        raise ValueError(
            "The model's scores are NaN or infinite, and no token can be chosen: its weights are "
            "damaged, or were trained with too high a learning_rate."
        )
