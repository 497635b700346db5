import pytest
import torch

from slm.analysis.attention import attention_maps
from slm.analysis.token_probabilities import mean_attention, token_probabilities


def test_token_probabilities_are_the_softmax_of_the_logits(random_model, tokenizer):
    model, text = random_model(), "The cat sat"
    ids = [tokenizer.eot_id, *tokenizer.encode(text)]
    with torch.no_grad():
        chances = model(torch.tensor([ids[:-1]]))[0].softmax(-1)
    words = token_probabilities(model, tokenizer, text, n_likeliest=3)
    assert "".join(word.piece for word in words) == text
    for t, word in enumerate(words):
        assert word.probability == pytest.approx(chances[t, ids[t + 1]].item(), rel=1e-4)
        values, places = chances[t].topk(3)
        assert [piece for piece, _ in word.likeliest] == tokenizer.pieces(places.tolist())
        assert [chance for _, chance in word.likeliest] == pytest.approx(values.tolist(), rel=1e-4)


def test_a_text_longer_than_the_context_is_explained_as_far_as_it_reaches(random_model, tokenizer):
    model = random_model()
    words = token_probabilities(model, tokenizer, "The cat sat. " * 50)
    assert len(words) == model.config.context_length
    assert token_probabilities(model, tokenizer, "") == []


def test_attention_is_the_mean_over_heads_and_layers(random_model, tokenizer):
    model, text = random_model(), "The cat sat"
    ids = [tokenizer.eot_id, *tokenizer.encode(text)]
    row = attention_maps(model, torch.tensor(ids)).mean((0, 1))[4, 1:5]
    heard = mean_attention(model, tokenizer, text, 3)
    assert heard == pytest.approx((row / row.sum()).tolist())
    assert mean_attention(model, tokenizer, text, 0) == [1.0]
