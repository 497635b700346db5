import pytest

from slm.analysis.token_probabilities import mean_attention, token_probabilities
from slm.page.explanation import MIN_SHARE, explain, percent, shown_piece

TEXT = "The cat sat. Ünïted 🐈 said:\n\n“Hello” <b>there</b>, \\x41 and \\xff"


def test_the_tokens_write_the_story_whatever_it_holds(random_model, tokenizer):
    explanation = explain(random_model(context_length=256), tokenizer, TEXT)
    assert "".join(token.text for token in explanation.tokens) == TEXT
    assert explanation.rest == ""
    assert "🐈" in [token.text.strip() for token in explanation.tokens]  # of several tokens


def test_what_is_beyond_the_context_stays_as_the_rest(random_model, tokenizer):
    model = random_model()
    text = "The cat sat. " * 50
    explanation = explain(model, tokenizer, text)
    assert len(explanation.tokens) == model.config.context_length
    assert "".join(token.text for token in explanation.tokens) + explanation.rest == text
    assert explanation.tokens[-1].listened_to


def test_an_empty_story_has_no_tokens(random_model, tokenizer):
    assert explain(random_model(), tokenizer, "").tokens == []


def test_chances_and_alternatives_are_the_models(random_model, tokenizer):
    model, text = random_model(), "The cat sat on the mat"
    expected = token_probabilities(model, tokenizer, text)
    for token, reference in zip(explain(model, tokenizer, text).tokens, expected, strict=True):
        assert token.text == reference.piece
        assert token.chance == pytest.approx(reference.probability)
        chances = [alternative.chance for alternative in token.alternatives]
        assert chances[:8] == pytest.approx([chance for _, chance in reference.likeliest])
        [came] = [alternative for alternative in token.alternatives if alternative.is_actual]
        assert came.chance == pytest.approx(reference.probability)


def test_it_listened_to_what_the_token_before_attended_to(random_model, tokenizer):
    model, text = random_model(), "The cat sat"
    tokens = explain(model, tokenizer, text).tokens
    assert tokens[0].listened_to == ()
    for place in range(1, len(tokens)):
        weights = mean_attention(model, tokenizer, text, place - 1)
        expected = {i: weight / max(weights) for i, weight in enumerate(weights)}
        expected = {i: share for i, share in expected.items() if share >= MIN_SHARE}
        assert dict(tokens[place].listened_to) == pytest.approx(expected, rel=1e-4)


def test_the_sentence_names_the_word_and_says_what_was_given(random_model, tokenizer):
    text = "The cat sat"
    tokens = explain(random_model(), tokenizer, text, prompt="The cat").tokens
    sentences = " ".join(token.sentence for token in tokens)
    assert "“The” was given. The model gave it a chance of " in sentences
    assert "“s” in “sat” had a chance of " in sentences
    assert "“…at” in “sat” had a chance of " in sentences


@pytest.mark.parametrize(
    "piece, before, shown",
    [
        (" cat", "the", "cat"),
        ("ing", "walk", "…ing"),
        ("s", '"', "s"),
        (".", "cat", "."),
        ("\n", "cat.", "(a new line)"),
        (" ", "cat", "(a space)"),
        ("<|endoftext|>", "cat.", "(the end)"),
        ("\\xf0", "cat", "(half a character)"),
    ],
)
def test_a_token_is_shown_so_that_it_is_understood(piece, before, shown):
    assert shown_piece(piece, before) == shown


@pytest.mark.parametrize(
    "chance, words",
    [(0.0, "under 0.1%"), (0.0234, "2.3%"), (0.345, "34%"), (0.999, "over 99%")],
)
def test_a_chance_is_as_exact_as_it_needs_to_be(chance, words):
    assert percent(chance) == words
