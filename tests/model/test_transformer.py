import math

import pytest
import torch
import torch.nn.functional as F

from slm.model.kv_cache import KVCache
from slm.model.transformer import Transformer, attend, rotary_tables, rotate
from slm.settings import ModelConfig
from tests.reference import SHAPES, llama, same, some_ids


@pytest.mark.parametrize("fields", SHAPES, ids=str)
@torch.no_grad()
def test_logits_are_those_of_hugging_faces_llama(fields, random_model):
    model, ids = random_model(**fields), some_ids(2, 32)
    same(model(ids), llama(model)(ids).logits)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attention_written_out_is_pytorchs_own(groups):
    generator = torch.Generator().manual_seed(0)
    shapes = (3, 4, 40, 16), (3, groups, 40, 16), (3, groups, 40, 16)
    parts = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    found = attend(*parts)
    expected = F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
    same(found, expected)
    weights = torch.randn(found.shape, generator=generator)
    for one, other in zip(
        *(torch.autograd.grad((y * weights).sum(), parts) for y in (found, expected))
    ):
        same(one, other)


@pytest.mark.parametrize("length", [64, 600])
def test_in_bfloat16_a_model_comes_to_about_the_same_logits(length, random_model):
    model, ids = random_model(context_length=600), some_ids(2, length)
    expected = model(ids)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(ids)
    assert (found - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("fields", SHAPES, ids=str)
@pytest.mark.parametrize("changed", [0, 9, 31])
@torch.no_grad()
def test_a_token_changes_what_follows_and_nothing_before_it(changed, fields, random_model):
    model, ids = random_model(**fields), some_ids(1, 32)
    other = ids.clone()
    other[0, changed] = (ids[0, changed] + 1) % 280
    difference = (model(ids) - model(other)).abs().amax(-1)[0]
    assert difference[:changed].sum() == 0
    assert (difference[changed:] > 1e-4).all()


@pytest.mark.parametrize("fields", SHAPES, ids=str)
@pytest.mark.parametrize("chunks", [[32], [5, 7, 1, 3, 16], [1] * 32], ids=str)
@torch.no_grad()
def test_reading_with_a_cache_gives_the_same_logits(chunks, fields, random_model):
    model, ids = random_model(**fields), some_ids(2, 32)
    cache = KVCache(model.config, batch_size=2)
    same(torch.cat([model(part, cache) for part in ids.split(chunks, 1)], 1), model(ids))
    assert cache.length == 32


@pytest.mark.parametrize("cached", [0, 32, 20])
@torch.no_grad()
def test_more_tokens_than_the_context_holds_are_refused(cached, random_model):
    model, cache = random_model(), None
    if cached:
        model(some_ids(1, cached), cache := KVCache(model.config))
    with pytest.raises(ValueError, match=r"^33 tokens are more than context_length.* 32\.$"):
        model(some_ids(1, 33 - cached), cache)


def test_rotation_is_multiplication_by_a_complex_number():
    """Formula 13 of RoFormer: pair i at position t is multiplied by e^(j t theta^(-2i/D))."""
    config = ModelConfig(n_heads=1, d_model=6, context_length=11, rope_theta=50.0)
    x = torch.randn(2, 3, 11, 6, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, *rotary_tables(config))
    for t in range(11):
        for i in range(3):
            turn = complex(math.cos(t * 50 ** (-2 * i / 6)), math.sin(t * 50 ** (-2 * i / 6)))
            expected = torch.complex(x[:, :, t, i], x[:, :, t, i + 3]) * turn
            same(torch.complex(turned[:, :, t, i], turned[:, :, t, i + 3]), expected)


def test_a_query_and_a_key_meet_at_an_angle_given_by_their_distance():
    q, k = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    tables = rotary_tables(ModelConfig(n_heads=4, context_length=64))
    scores = rotate(q.expand(1, 1, 64, 32), *tables) @ rotate(k.expand(1, 1, 64, 32), *tables).mT
    means = []
    for distance in range(-63, 64):
        diagonal = scores[0, 0].diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-3, rtol=0)
        means.append(diagonal.mean())
    assert torch.stack(means).std() > 0.5


@torch.no_grad()
def test_a_new_model_holds_every_token_about_equally_likely():
    model, ids = Transformer(ModelConfig()), some_ids(4, 65, below=4096)
    loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).item()
    assert loss == pytest.approx(math.log(4096), abs=0.06)


@torch.no_grad()
def test_in_a_new_model_every_block_passes_its_input_on_unchanged():
    model, ids = Transformer(ModelConfig()), some_ids(1, 16)
    x = model.model.embed_tokens(ids)
    scale = (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    same(model.model(ids), x / scale)
    assert x.std().item() == pytest.approx(0.02, abs=0.002)


@pytest.mark.parametrize("fields", SHAPES, ids=str)
def test_one_batch_can_be_learnt_by_heart(fields):
    config = ModelConfig(
        **{"vocab_size": 280, "context_length": 16, "n_layers": 2, "n_heads": 4, "d_model": 32}
        | fields
    )
    model, ids = Transformer(config), some_ids(4, 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(60):
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_the_seed_alone_draws_the_weights(tie_embeddings):
    config = ModelConfig(n_layers=1, d_model=32, tie_embeddings=tie_embeddings)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = Transformer(config, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = (Transformer(config, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    drawn = [name for name in one if one[name].std() > 0]
    assert len(drawn) == 6 + (not tie_embeddings)  # embeddings, q, k, v, gate, up and the head
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


@pytest.mark.parametrize(
    ("d_model", "d_ff"), [(32, 96), (128, 352), (256, 704), (384, 1024), (512, 1376)]
)
def test_the_mlp_is_eight_thirds_as_wide_in_steps_of_32(d_model, d_ff):
    config = ModelConfig(d_model=d_model)
    assert config.d_ff == d_ff
    assert 0 <= d_ff - d_model * 8 / 3 < 32
    assert ModelConfig(d_model=d_model, d_ff=50).d_ff == 50


def test_every_head_has_its_own_keys_and_values_unless_told_otherwise():
    assert ModelConfig(n_heads=8).n_kv_heads == 8
    assert ModelConfig(n_heads=8, n_kv_heads=2).n_kv_heads == 2


WHOLE = ["vocab_size", "context_length", "n_layers", "n_heads", "n_kv_heads", "d_model", "d_ff"]
WRONG = [(name, value) for name in WHOLE for value in (0, -4, 4.0, True, "4", math.nan)]
WRONG += [(name, None) for name in WHOLE if name not in ("n_kv_heads", "d_ff")]
WRONG += [
    (name, value)
    for name in ("rope_theta", "norm_eps", "dropout")
    for value in (-1, None, "1", True, math.nan, math.inf)
]
WRONG += [("rope_theta", 0), ("norm_eps", 0.0), ("dropout", 1.5)]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be a .*number .*, not {value!r}\.$"):
        ModelConfig(**{name: value})


@pytest.mark.parametrize(
    ("fields", "mend"),
    [
        ({"d_model": 130, "n_heads": 4}, r"^d_model \(130\) .*set d_model to a multiple of 8\.$"),
        ({"d_model": 12, "n_heads": 4}, r"^d_model \(12\) .*set d_model to a multiple of 8\.$"),
        ({"n_heads": 4, "n_kv_heads": 3}, r"^n_kv_heads \(3\) .*n_heads \(4\).*divisor"),
        ({"n_heads": 4, "n_kv_heads": 8}, r"^n_kv_heads \(8\) .*n_heads \(4\).*divisor"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused_with_the_mend(fields, mend):
    with pytest.raises(ValueError, match=mend):
        ModelConfig(**fields)


def test_the_device_is_that_of_the_weights(random_model):
    assert random_model().device == torch.device("cpu")
    assert random_model().to("meta").device == torch.device("meta")
