import pytest
import torch

from slm.generation.decoder import NextToken
from slm.model.kv_cache import KVCache
from slm.model.transformer import evaluating
from tests.reference import SHAPES, llama, same, some_ids


@pytest.mark.parametrize("fields", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [1, 3])
@torch.no_grad()
def test_token_by_token_it_gives_hugging_faces_logits(fields, rows, random_model):
    model, ids = random_model(**fields), some_ids(rows, 32)
    expected = llama(model)(ids).logits
    cache, next_token = KVCache(model.config, rows), NextToken(model)
    for t in range(32):
        same(next_token(ids[:, t], cache), expected[:, t])
    assert cache.length == 32


@torch.no_grad()
def test_a_cache_that_has_it_is_read_the_fast_way_after_a_prompt(random_model):
    model, ids = random_model(), some_ids(2, 20)
    expected, cache, called = model(ids), KVCache(model.config, 2), []
    cache.next_token = NextToken(model)
    model.model.register_forward_hook(lambda *_: called.append(cache.length))
    same(model(ids[:, :5], cache), expected[:, :5])
    for t in range(5, 20):
        same(model(ids[:, t : t + 1], cache), expected[:, t : t + 1])
    assert called == [5]  # the parts were called for the prompt alone


def test_a_full_cache_is_refused(random_model):
    model = random_model()
    cache, next_token = KVCache(model.config), NextToken(model)
    with evaluating(model):
        model(some_ids(1, 32), cache)
    with pytest.raises(ValueError, match="more than context_length"):
        next_token(some_ids(1), cache)
