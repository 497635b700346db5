import math
from collections import Counter, defaultdict
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from slm.analysis.ngram import NGram
from slm.stories.cleaning import Cleaning, Stories
from slm.stories.practice import practice_stories
from slm.tokenizer.training import train_tokenizer

STORIES = practice_stories(12, seed=3)


def kneser_ney(stories, eot, n, vocab_size, discount):
    """Interpolated Kneser-Ney in exact fractions, from the formula in Chen & Goodman 1999, section
    2.7: a function of a context and a token."""
    counts = [None, *(defaultdict(Counter) for _ in range(n))]  # by length, context, token
    for ids in stories:
        ids = (eot,) * (n - 1) + (*ids, eot)
        for end in range(n - 1, len(ids)):
            counts[n][ids[end - n + 1 : end]][ids[end]] += 1
    for length in range(n - 1, 0, -1):
        for context, tokens in counts[length + 1].items():
            for token in tokens:
                counts[length][context[1:]][token] += 1

    def probability(context, token):
        lower = probability(context[1:], token) if context else Fraction(1, vocab_size)
        seen = counts[len(context) + 1].get(tuple(context))
        if seen is None:
            return lower
        total = sum(seen.values())
        return (max(seen[token] - discount, 0) + discount * len(seen) * lower) / Fraction(total)

    return probability


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_probabilities_equal_the_formula_in_fractions(n, tokenizer):
    eot = tokenizer.eot_id
    known = [tokenizer.encode(story) for story in STORIES]
    exact = kneser_ney(known, eot, n, tokenizer.vocab_size, Fraction(3, 4))
    model, nats, count = NGram(STORIES, tokenizer, n), 0.0, 0
    unseen = [*practice_stories(3, seed=9), "日本!"]
    for story in unseen:
        ids = (eot,) * (n - 1) + (*tokenizer.encode(story), eot)
        for end in range(n - 1, len(ids)):
            nats -= math.log(exact(ids[end - n + 1 : end], ids[end]))
            count += 1
    found = model.evaluate(unseen)
    assert found.tokens == count
    assert found.nats_per_token == pytest.approx(nats / count, rel=1e-9)
    size = sum(len(story.encode()) + 1 for story in unseen)
    assert found.bits_per_byte == pytest.approx(nats / size / math.log(2), rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("text", ["", "Once", "Once upon a", "日本"])
def test_the_probabilities_of_all_tokens_add_up_to_one(n, text, tokenizer):
    chances = NGram(STORIES, tokenizer, n).next_token_probabilities(
        [tokenizer.eot_id, *tokenizer.encode(text)]
    )
    assert chances.shape == (tokenizer.vocab_size,)
    assert chances.min() > 0
    assert chances.sum() == pytest.approx(1)


def test_a_story_sees_nothing_of_the_one_before(tokenizer):
    model, eot = NGram(STORIES, tokenizer, 3), tokenizer.eot_id
    alone = model.next_token_probabilities([eot])
    after = model.next_token_probabilities([eot, *tokenizer.encode("The end."), eot])
    np.testing.assert_array_equal(alone, after)


def test_more_context_helps_on_text_of_the_same_kind():
    tokenizer = train_tokenizer(practice_stories(200), 400)
    train, test = practice_stories(400, seed=1), practice_stories(20, seed=2)
    bits = [NGram(train, tokenizer, n).evaluate(test).bits_per_byte for n in (1, 2, 3)]
    assert bits == sorted(bits, reverse=True)


@pytest.mark.parametrize(
    ("stories", "settings", "sentence"),
    [
        ([], {}, "no stories"),
        (STORIES, {"n": 0}, "n must be"),
        (STORIES, {"n": 5}, "n must be"),
        (STORIES, {"n": 2.5}, "n must be"),
        (STORIES, {"n": 2.0}, "n must be"),
        (STORIES, {"discount": None}, "discount must be"),
        ("a story", {}, "no stories"),
        (["a story", None], {}, "number 2 of the stories is None"),
        (STORIES, {"discount": 1.0}, "discount must be"),
        (STORIES, {"discount": 0.0}, "discount must be"),
    ],
)
def test_what_makes_no_sense_is_refused(stories, settings, sentence, tokenizer):
    with pytest.raises(ValueError, match=sentence):
        NGram(stories, tokenizer, **settings)


def test_a_vocabulary_of_which_runs_cannot_be_numbered_is_refused():
    """Else the numbers would overflow, and different runs would be counted as one."""
    large = SimpleNamespace(vocab_size=128_256)  # that of Llama 3
    with pytest.raises(ValueError, match="Runs of 4 of 128,256 tokens have no number"):
        NGram(STORIES, large, n=4)


def test_of_loaded_stories_the_training_stories_are_counted(tokenizer):
    stories = Stories(STORIES, ["Another."], "mine", False, Cleaning(3, 0, 0, 0, 0, 3))
    expected = NGram(STORIES, tokenizer, 2).evaluate(["A cat."])
    assert NGram(stories, tokenizer, np.int64(2)).evaluate(["A cat."]) == expected


@pytest.mark.parametrize("stories", [[], "a story"])
def test_no_stories_to_evaluate_on_are_refused(stories, tokenizer):
    with pytest.raises(ValueError, match="no stories"):
        NGram(STORIES, tokenizer).evaluate(stories)
