import pytest
import torch

from slm.analysis.attention import attention_maps
from tests.reference import SHAPES, llama, same, some_ids


@pytest.mark.parametrize("fields", SHAPES, ids=str)
@torch.no_grad()
def test_attention_maps_are_those_of_hugging_faces_llama(fields, random_model):
    model, ids = random_model(**fields), some_ids(2, 32)
    theirs = llama(model)(ids, output_attentions=True).attentions
    for row in range(2):
        same(attention_maps(model, ids[row]), torch.stack([layer[row] for layer in theirs]))


@pytest.mark.parametrize("fields", SHAPES, ids=str)
@torch.no_grad()
def test_attention_maps_are_what_the_fused_attention_computes(fields, random_model):
    model, ids = random_model(**fields), some_ids(1, 20)
    attentions, inside = [layer.self_attn for layer in model.model.layers], []
    for attention in attentions:
        attention.v_proj.register_forward_hook(lambda *call: inside.append(call[-1]))
        attention.register_forward_hook(lambda *call: inside.append(call[-1]))
    model(ids)
    values, gathered = inside[::2], inside[1::2]
    maps = attention_maps(model, ids)
    assert maps.shape == (len(attentions), 4, 20, 20)
    assert (maps.triu(1) == 0).all()
    same(maps.sum(-1), torch.ones(maps.shape[:3]))
    for attention, weights, v, expected in zip(attentions, maps, values, gathered, strict=True):
        v = v[0].unflatten(-1, (-1, 8)).transpose(0, 1)  # (G, T, D)
        v = v.repeat_interleave(4 // len(v), 0)
        same(attention.o_proj((weights @ v).transpose(0, 1).flatten(1)), expected[0])


@torch.no_grad()
def test_attention_maps_take_one_row_with_or_without_its_batch_dimension(random_model):
    model, ids = random_model(), some_ids(9)
    assert torch.equal(attention_maps(model, ids), attention_maps(model, ids[None]))
