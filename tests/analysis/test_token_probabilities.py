import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import slm
from slm.analysis.attention import attention_maps
from slm.analysis.token_probabilities import mean_attention, token_probabilities
from tests.pretrained import TOKENIZERS, publish


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


@pytest.mark.parametrize("name", TOKENIZERS)
def test_with_third_party_models_words_keep_their_spaces_and_probabilities(name, tmp_path):
    text = "Once upon a time there was a dragon, and it said:  hello!"
    folder = publish(tmp_path, TOKENIZERS[name](), vocab_size=700)  # rows without a token
    words = token_probabilities(*slm.load_model(folder), text)
    assert "".join(word.piece for word in words).removeprefix(" ") == text
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    encoded = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    ids = [theirs.config.bos_token_id, *encoded]
    with torch.no_grad():
        probabilities = theirs(torch.tensor([ids])).logits[0].softmax(-1)
    expected = [probabilities[t, ids[t + 1]].item() for t in range(len(encoded))]
    assert [word.probability for word in words] == pytest.approx(expected, rel=1e-3)
    assert len({piece for word in words for piece, _ in word.likeliest}) > 8
    assert len(mean_attention(*slm.load_model(folder), text, len(words) - 1)) == len(words)


def test_a_model_of_few_tokens_names_all_of_them(random_model):
    class Letters:
        bos_id = 0

        def encode(self, text):
            return ["^abcd".index(letter) for letter in text]

        def pieces(self, ids):
            return ["^abcd"[i] for i in ids]

    [word] = token_probabilities(random_model(vocab_size=5), Letters(), "a")
    assert sorted(piece for piece, _ in word.likeliest) == sorted("^abcd")
