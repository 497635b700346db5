"""The sampler: draws the next token of every sequence in the batch from its logits."""

from collections import defaultdict
from collections.abc import Sequence as ListOf
from dataclasses import replace

from torch import Tensor

from slm.generation.sampling import choose_ids, ids_to_penalize
from slm.serving.sequence import Sequence, Token
from slm.settings import SamplingConfig


def sample(sequences: ListOf[Sequence], logits: Tensor, end_ids: ListOf[int]) -> list[int]:
    """The next token id of each sequence, drawn with its own generator from its row of logits
    `(B, V)`. Rows with the same sampling parameters are worked out together."""
    drawn = [0] * len(sequences)
    for sampling, rows in _rows_by_sampling(sequences).items():
        generators = [sequences[row].generator for row in rows]
        previous = ids_to_penalize([sequences[row].ids for row in rows], sampling, end_ids)
        ids = choose_ids(logits[rows], sampling, generators, previous)
        for row, id in zip(rows, ids, strict=True):
            drawn[row] = id
    return drawn


def tokens_with_logprobs(ids: ListOf[int], logits: Tensor, top: int | None) -> list[Token]:
    """Tokens with their log-probabilities and those of the `top` likeliest, from the logits
    `(T, V)` they were drawn from; with None, without any."""
    if top is None:
        return [Token(token_id) for token_id in ids]
    logprobs = logits.float().log_softmax(-1)  # (T, V)
    own = logprobs[range(len(ids)), list(ids)].tolist()
    likeliest = logprobs.topk(min(top, logprobs.shape[-1]))  # (T, top), twice
    top_ids = likeliest.indices.tolist()
    top_values = likeliest.values.tolist()
    return [
        Token(token_id, own[t], tuple(zip(top_ids[t], top_values[t], strict=True)))
        for t, token_id in enumerate(ids)
    ]


def _rows_by_sampling(sequences: ListOf[Sequence]) -> dict[SamplingConfig, list[int]]:
    """The rows that share their sampling parameters. Seed and length make no difference here."""
    rows = defaultdict(list)
    for row, sequence in enumerate(sequences):
        rows[replace(sequence.sampling, seed=None, max_new_tokens=1)].append(row)
    return rows
