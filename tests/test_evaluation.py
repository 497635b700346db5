import math

import pytest
import torch
from tokenizers import Tokenizer as HuggingFaceTokenizer
from transformers import LlamaForCausalLM

from slm.checkpoint.saving import save_model
from slm.evaluation import Evaluation, evaluate, token_nats
from slm.model.transformer import Transformer, evaluating
from slm.settings import ModelConfig
from slm.stories.cleaning import Cleaning, Stories
from slm.stories.practice import practice_stories
from slm.tokenizer.byte_pair import Tokenizer, load_tokenizer
from slm.tokenizer.training import train_tokenizer

CONTEXT = 32
STORIES = [
    "The end.",
    "Zoë and the 🦊 ate “crêpes” in São Paulo… 日本 too!",
    max(practice_stories(20), key=len),  # far longer than the context
    "",
    *practice_stories(6, seed=1),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer()


def make_model(tokenizer, **settings) -> Transformer:
    """A model that has opinions: no weight of it is zero."""
    small = {"d_model": 32, "n_layers": 2, "n_heads": 2, "context_length": CONTEXT}
    config = ModelConfig(**small | {"vocab_size": tokenizer.vocab_size} | settings)
    model, generator = Transformer(config), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(weight.dim() == 1, 0.25, generator=generator)
    return model


def lengths(tokenizer: Tokenizer, *texts: str) -> list[int]:
    """How many tokens each text has, its end not counted."""
    return [len(tokenizer.encoding.encode_ordinary(text)) for text in texts]


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"tie_embeddings": False, "n_kv_heads": 1}])
def test_scores_equal_those_computed_with_transformers(tokenizer, tmp_path, settings):
    model = make_model(tokenizer, **settings)
    save_model(tmp_path, model, tokenizer)
    llama = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    encoder = HuggingFaceTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    eot, nats, count = encoder.token_to_id("<|endoftext|>"), 0.0, 0
    stories, places = [], []
    for story in STORIES:
        ids = torch.tensor([eot, *encoder.encode(story).ids, eot])
        for start in range(0, len(ids) - 1, CONTEXT):
            window = ids[start : start + CONTEXT + 1]
            scores = llama(window[None, :-1]).logits[0].double().log_softmax(-1)
            nats -= scores.gather(1, window[1:, None]).sum().item()
            count += len(window) - 1
            places.append(-scores.gather(1, window[1:, None]).flatten())
        stories.append(torch.cat(places))
        places.clear()
    size = sum(len(bytes(story, "utf-8")) + 1 for story in STORIES)

    found = evaluate(model, tokenizer, STORIES)
    assert (found.tokens, found.bytes) == (count, size)
    assert found.nats_per_token == pytest.approx(nats / count, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / size / math.log(2), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats / count), rel=1e-4)
    for one, other in zip(token_nats(model, tokenizer, STORIES), stories, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)
    for place in (0, 5, 40):
        there = [story[place].item() for story in stories if len(story) > place]
        assert found.stories_by_position[place] == len(there)
        assert found.nats_by_position[place] == pytest.approx(sum(there) / len(there), rel=1e-4)
    assert len(found.nats_by_position) == max(map(len, stories))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1000])
def test_batch_size_does_not_matter(tokenizer, batch_size):
    model = make_model(tokenizer)
    expected = evaluate(model, tokenizer, STORIES)
    found = evaluate(model, tokenizer, STORIES, batch_size=batch_size)
    assert (found.tokens, found.bytes) == (expected.tokens, expected.bytes)
    assert found.nats_per_token == pytest.approx(expected.nats_per_token, rel=1e-5)


def test_a_model_without_opinions_scores_the_logarithm_of_the_vocabulary(tokenizer):
    model = make_model(tokenizer)
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    found = evaluate(model, tokenizer, ["Hello!", "Bye."])
    tokens = sum(lengths(tokenizer, "Hello!", "Bye.")) + 2
    assert found.nats_per_token == pytest.approx(math.log(tokenizer.vocab_size), rel=1e-6)
    assert found.bits_per_byte == pytest.approx(math.log2(tokenizer.vocab_size) * tokens / 12)
    assert found.perplexity == pytest.approx(tokenizer.vocab_size, rel=1e-5)
    assert (found.tokens, found.bytes) == (tokens, 7 + 5)


def test_stories_are_scored_alone_so_that_their_scores_add_up(tokenizer):
    model = make_model(tokenizer)
    each = [evaluate(model, tokenizer, [story]) for story in STORIES]
    both = evaluate(model, tokenizer, STORIES[::-1])
    nats = sum(score.nats_per_token * score.tokens for score in each)
    assert both.tokens == sum(score.tokens for score in each)
    assert both.nats_per_token == pytest.approx(nats / both.tokens, rel=1e-5)


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_story_about_as_long_as_the_context_is_counted_whole(tokenizer, extra):
    text = "Hello" + "!" * 200
    while lengths(tokenizer, text)[0] + 1 > CONTEXT + extra:
        text = text[:-1]
    [tokens] = lengths(tokenizer, text)
    assert evaluate(make_model(tokenizer), tokenizer, [text]).tokens == tokens + 1


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_afterwards_as_before(tokenizer, training):
    plain, dropping = make_model(tokenizer), make_model(tokenizer, dropout=0.5).train(training)
    assert evaluate(dropping, tokenizer, STORIES) == evaluate(plain, tokenizer, STORIES)
    assert all(module.training is training for module in dropping.modules())
    assert all(weight.grad is None for weight in dropping.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_even_after_an_error(tokenizer, training):
    model = make_model(tokenizer).train(training)
    with pytest.raises(RuntimeError), evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        raise RuntimeError
    assert model.training is training
    assert torch.is_grad_enabled()


def test_of_loaded_stories_the_validation_stories_are_scored(tokenizer):
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, n_layers=1, d_model=16))
    texts = practice_stories(5)
    stories = Stories(texts[2:], texts[:2], "five", False, Cleaning(5, 0, 0, 0, 0, 5))
    assert evaluate(model, tokenizer, stories) == evaluate(model, tokenizer, texts[:2])


@pytest.mark.parametrize("stories", [[], "One story is no list."])
def test_no_stories_are_refused(tokenizer, stories):
    with pytest.raises(ValueError, match="no stories"):
        evaluate(make_model(tokenizer), tokenizer, stories)


@pytest.mark.parametrize(
    ("stories", "sentence"),
    [
        (["a", None], "number 2 of the stories is None"),
        ([float("nan")], "number 1 of the stories is nan"),
        (5, r"not 5 \(int\)"),
    ],
)
def test_what_is_no_text_is_named(tokenizer, stories, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate(make_model(tokenizer), tokenizer, stories)


def test_it_is_plain_what_is_meant(tokenizer):
    model, texts = make_model(tokenizer), practice_stories(3)
    expected = evaluate(model, tokenizer, texts)
    rows = [{"text": text} for text in texts]
    for stories in (iter(texts), tuple(texts), rows):
        assert evaluate(model, tokenizer, stories) == expected


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "4"])
def test_a_batch_size_that_is_none_is_refused(tokenizer, batch_size):
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        evaluate(make_model(tokenizer), tokenizer, STORIES, batch_size=batch_size)


@pytest.mark.parametrize("story", ["", "a", "the"])
def test_a_story_of_one_token_or_none_is_scored(tokenizer, story):
    found = evaluate(make_model(tokenizer), tokenizer, [story])
    assert found.tokens == lengths(tokenizer, story)[0] + 1
    assert math.isfinite(found.bits_per_byte)


def test_a_tokenizer_of_another_model_is_refused(tokenizer):
    other = train_tokenizer(practice_stories(20), 300)
    with pytest.raises(ValueError, match=r"4,096.*300"):
        evaluate(make_model(tokenizer), other, STORIES)


def test_perplexity_is_the_exponential_of_the_loss():
    assert Evaluation(math.log(7), 1.0, 10, 20, (), ()).perplexity == pytest.approx(7)
