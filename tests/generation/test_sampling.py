"""The DRY penalty. The other steps are compared with transformers in test_text_generation.py."""

import pytest
import torch

from slm.generation.sampling import apply_dry, next_token_probabilities
from slm.settings import SamplingConfig

V = 9  # tokens in the vocabulary


def penalties(ids, multiplier=0.8):
    """What is taken off the logit of each token that has a penalty."""
    taken = -apply_dry(torch.zeros(1, V), [ids], multiplier)[0]
    return {token: amount for token, amount in enumerate(taken.tolist()) if amount}


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], {}),
        ([1], {}),
        ([1, 2, 3, 4], {}),
        ([2, 3, 1, 2], {}),  # a single token may come again
        ([1, 2, 3, 1, 2], {3: 0.8}),
        ([0, 1, 2, 3, 0, 1, 2], {3: 0.8 * 1.75}),
        ([4, 1, 2, 3, 0, 1, 2], {3: 0.8}),  # 4 and 0 differ
        ([1, 2, 3, 5, 1, 2, 4, 6, 1, 2], {3: 0.8, 4: 0.8}),  # once one came, once the other
        ([7, 1, 2, 3, 5, 1, 2, 3, 7, 1, 2], {3: 0.8 * 1.75}),  # the longer run counts
        ([1, 1, 1], {1: 0.8}),
        ([1, 1, 1, 1, 1], {1: 0.8 * 1.75**2}),
    ],
    ids=str,
)
def test_the_penalty_grows_with_the_run_that_would_come_again(ids, expected):
    assert penalties(ids) == pytest.approx(expected)
    assert penalties(ids, 1.6) == pytest.approx({token: 2 * was for token, was in expected.items()})


def test_one_token_over_and_over_has_a_finite_penalty():
    (amount,) = penalties([1] * 3000).values()
    assert 1e6 < amount < float("inf")


def test_the_penalty_is_that_of_its_definition():
    """Every run is compared with every other one, as slices."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        size = torch.randint(1, 30, (1,), generator=generator)
        ids = torch.randint(3, (int(size),), generator=generator).tolist()
        expected = {}
        for length in range(2, len(ids)):
            newest = ids[-length:]
            for start in range(len(ids) - length):
                if ids[start : start + length] == newest:
                    expected[ids[start + length]] = 0.8 * 1.75 ** (length - 2)
        assert penalties(ids) == pytest.approx(expected), ids


def test_a_run_that_is_long_past_counts_like_a_recent_one():
    between = [3, 4, 5, 6] * 100
    assert penalties([1, 2, 0, *between, 1, 2])[0] == pytest.approx(0.8)


def test_each_row_has_its_own_penalty_and_the_logits_stay_as_they_are():
    logits = torch.arange(2.0 * V).view(2, V)
    before = logits.clone()
    changed = apply_dry(logits, [[1, 2, 3, 1, 2], [5, 6, 5]], 0.8)
    assert torch.equal(logits, before)
    assert (before - changed).nonzero().tolist() == [[0, 3]]
    assert changed[0, 3].item() == pytest.approx(3.0 - 0.8)


def test_it_comes_before_the_temperature_and_decides_greedily_too():
    logits = torch.zeros(1, V)
    logits[0, 3] = 0.5
    ids = [[1, 2, 3, 1, 2]]
    sampling = SamplingConfig(temperature=0.5, min_p=0, dry_multiplier=0.8)
    expected = torch.zeros(1, V)
    expected[0, 3] = (0.5 - 0.8) / 0.5
    probabilities = next_token_probabilities(logits, sampling, ids)
    torch.testing.assert_close(probabilities, expected.softmax(-1))
    greedy = SamplingConfig(temperature=0, dry_multiplier=0.8)
    assert next_token_probabilities(logits, greedy, ids)[0, 3] == 0
    assert next_token_probabilities(logits, SamplingConfig(temperature=0), ids)[0, 3] == 1
