import math

import pytest
import torch

from slm.serving.model_runner import CacheTooSmall, ModelRunner
from tests.reference import same, some_ids


@pytest.mark.parametrize("fields", [{}, {"n_kv_heads": 2, "tie_embeddings": False}], ids=str)
@torch.no_grad()
def test_rows_that_are_differently_long_get_the_logits_they_get_alone(fields, random_model):
    model, ids = random_model(**fields), some_ids(3, 20)
    expected, runner = model(ids), ModelRunner(model, 5, math.inf)
    lengths = [3, 11, 1]
    for row, length in enumerate(lengths):
        same(runner.add_row(ids[row, :length].tolist()), expected[row, :length])
    for _ in range(8):
        rows = [ids[row, : length + 1].tolist() for row, length in enumerate(runner.lengths)]
        logits = runner.step(rows)
        for row, length in enumerate(runner.lengths):
            same(logits[row], expected[row, length - 1])
    assert runner.lengths == [length + 8 for length in lengths]


@torch.no_grad()
def test_a_row_that_is_removed_is_filled_by_the_last(random_model):
    model, ids = random_model(), some_ids(3, 20)
    expected, runner = model(ids), ModelRunner(model, 4, math.inf)
    for row in range(3):
        runner.add_row(ids[row, : 5 + row].tolist())
    runner.remove_row(0)
    assert runner.lengths == [7, 6]
    logits = runner.step([ids[2, :8].tolist(), ids[1, :7].tolist()])
    same(logits[0], expected[2, 7])
    same(logits[1], expected[1, 6])


def test_the_cache_grows_with_use_and_is_given_back(random_model):
    model = random_model(context_length=1024)
    runner = ModelRunner(model, 32, math.inf)
    assert runner.allocated_bytes == 0
    runner.add_row([1] * 10)
    few = runner.allocated_bytes
    assert 0 < few <= runner.cache_bytes(1, 64)
    runner.add_row([1] * 500)
    assert few < runner.allocated_bytes <= runner.cache_bytes(2, 512)
    for row in (1, 0):
        runner.remove_row(row)
    runner.release()
    assert runner.allocated_bytes == 0


@torch.no_grad()
def test_the_cache_stays_within_its_bound_and_is_right_at_it(random_model, caplog):
    model, ids = random_model(context_length=128), some_ids(3, 100)
    unbounded = ModelRunner(model, 32, math.inf)
    bound = unbounded.cache_bytes(3, 100)
    runner = ModelRunner(model, 32, bound)
    assert runner.reserve([100, 60, 80])
    assert not runner.reserve([100, 60, 80, 1])
    assert "written at once, and others wait" in caplog.text
    for row in range(3):
        runner.add_row(ids[row, : 40 + 10 * row].tolist())
    expected = model(ids)
    while max(runner.lengths) < 99:
        rows = [ids[row, : length + 1].tolist() for row, length in enumerate(runner.lengths)]
        logits = runner.step(rows)
        assert runner.allocated_bytes <= bound
        for row, length in enumerate(runner.lengths):
            same(logits[row], expected[row, length - 1])


def test_a_sequence_that_can_never_fit_is_refused_with_what_it_needs(random_model):
    model = random_model(context_length=128)
    runner = ModelRunner(model, 32, 50_000)
    runner.check_fits(90)
    with pytest.raises(CacheTooSmall, match=r"128 tokens need .* ask for fewer tokens"):
        runner.check_fits(128)


def test_a_prompt_with_an_impossible_id_leaves_no_row_behind(random_model):
    runner = ModelRunner(random_model(), 2, math.inf)
    with pytest.raises(IndexError):
        runner.add_row([5, 99_999])
    assert runner.lengths == []
