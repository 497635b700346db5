import pytest
import torch

from slm.generation.decoder import IncrementalDecoder
from slm.model.kv_cache import KVCache
from tests.reference import SHAPES, llama, same, some_ids


@pytest.mark.parametrize("fields", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [1, 3])
@torch.no_grad()
def test_token_by_token_it_gives_hugging_faces_logits(fields, rows, random_model):
    model, ids = random_model(**fields), some_ids(rows, 32)
    expected = llama(model)(ids).logits
    decoder = IncrementalDecoder(model)
    cache = decoder.new_cache(rows)
    same(decoder.prefill(ids[:, :1].tolist(), cache), expected[:, 0])
    for t in range(1, 32):
        same(decoder.step(ids[:, : t + 1].tolist(), cache), expected[:, t])
    assert cache.lengths == [32] * rows


@pytest.mark.parametrize("fields", SHAPES, ids=str)
@torch.no_grad()
def test_rows_of_different_lengths_get_hugging_faces_logits(fields, random_model):
    model, ids = random_model(**fields), some_ids(3, 20)
    expected = llama(model)(ids).logits
    lengths = [3, 11, 1]
    rows = [row[:length] for row, length in zip(ids.tolist(), lengths)]
    decoder = IncrementalDecoder(model)
    cache = decoder.new_cache(3)
    logits = decoder.prefill(rows, cache)
    for _ in range(8):
        for row, (row_ids, row_logits) in enumerate(zip(rows, logits)):
            same(row_logits, expected[row, len(row_ids) - 1])
        for row, row_ids in enumerate(rows):
            row_ids.append(ids[row, len(row_ids)].item())
        logits = decoder.step(rows, cache)
    assert cache.lengths == [11, 19, 9]


@torch.no_grad()
def test_rows_come_and_go_while_others_are_decoded(random_model):
    model, ids = random_model(), some_ids(4, 20).tolist()
    expected = model(torch.tensor(ids))
    decoder = IncrementalDecoder(model)
    cache = decoder.new_cache(3)
    decoder.prefill([ids[0][:9], ids[1][:2], ids[2][:5]], cache)
    cache.remove_row(0)  # row 2 moves there
    logits = decoder.step([ids[2][:6], ids[1][:3]], cache)
    same(logits, torch.stack([expected[2, 5], expected[1, 2]]))
    [joined] = decoder.read_rows([2], [ids[3][:7]], cache)
    same(joined, expected[3, :7])
    logits = decoder.step([ids[2][:7], ids[1][:4], ids[3][:8]], cache)
    same(logits, torch.stack([expected[2, 6], expected[1, 3], expected[3, 7]]))
    cache.remove_row(2)
    same(decoder.step([ids[2][:8], ids[1][:5]], cache)[1], expected[1, 4])


@torch.no_grad()
def test_only_the_rows_that_fill_the_context_forget_their_older_half(random_model):
    model, ids = random_model(), some_ids(2, 40).tolist()  # the context holds 32
    decoder = IncrementalDecoder(model)
    cache = decoder.new_cache(2)
    rows = [ids[0][:31], ids[1][:5]]
    decoder.prefill(rows, cache)
    windows = [0, 0]  # where what each row still sees begins
    for _ in range(9):
        for row, row_ids in enumerate(rows):
            row_ids.append(ids[row][len(row_ids)])
            if len(row_ids) - windows[row] > 32:
                windows[row] = len(row_ids) - 16
        logits = decoder.step(rows, cache)
        for row, row_ids in enumerate(rows):
            alone = model(torch.tensor([row_ids[windows[row] :]]))[0, -1]
            same(logits[row], alone)
    assert windows == [33 - 16, 0]


@torch.no_grad()
def test_of_a_prompt_longer_than_the_context_the_end_is_read(random_model):
    model, ids = random_model(), some_ids(1, 50).tolist()
    decoder = IncrementalDecoder(model)
    logits = decoder.prefill(ids, decoder.new_cache(1))
    same(logits, model(torch.tensor(ids)[:, -32:])[:, -1])


@torch.no_grad()
def test_rows_of_equal_length_get_the_same_bits_as_each_other(random_model):
    """Rows in use are the first ones, whatever room there is behind them."""
    model, ids = random_model(), some_ids(1, 12).tolist()
    decoder = IncrementalDecoder(model)
    tight = decoder.new_cache(1)
    roomy = decoder.new_cache(7)
    assert torch.equal(decoder.prefill([ids[0][:5]], tight), decoder.prefill([ids[0][:5]], roomy))
    for t in range(5, 12):
        rows = [ids[0][: t + 1]]
        assert torch.equal(decoder.step(rows, tight), decoder.step(rows, roomy))


def test_a_cache_whose_rows_differ_has_no_length(random_model):
    cache = KVCache(random_model().config, 2)
    assert cache.length == 0
    cache.lengths = [3, 4]
    with pytest.raises(ValueError, match=r"differ in length: \[3, 4\]"):
        cache.length  # noqa: B018
