import random

import pytest

from slm.serving.sequence import Token
from slm.serving.stop_sequences import StopMatcher
from slm.serving.story_output import StoryOutput
from slm.tokenizer.detokenizer import IncrementalDetokenizer


@pytest.mark.parametrize(
    ("stops", "text", "found"),
    [
        ([], "the cat", None),
        (["cat"], "the cat", 4),
        (["at", "cat"], "the cat", 4),
        (["dog", "e"], "the cat", 2),
        (["the cat sat"], "the cat", None),
    ],
)
def test_the_first_stop_sequence_is_found_however_the_text_comes(stops, text, found):
    matcher = StopMatcher(stops)
    assert matcher.find(text, 0) == found
    places = [matcher.find(text[:end], end - 1) for end in range(1, len(text) + 1)]
    first = next((place for place in places if place is not None), None)
    assert (first is None) == (found is None)
    assert first is None or text[first:].startswith(tuple(stops))


@pytest.mark.parametrize(
    ("stops", "text", "held"),
    [([], "the", 0), (["cat"], "the ca", 2), (["cat", "ab"], "ca", 2), (["aab"], "aaa", 2)],
)
def test_what_may_begin_a_stop_sequence_is_held_back(stops, text, held):
    assert StopMatcher(stops).held_back(text) == held


def test_the_longest_beginning_of_any_stop_sequence_is_held_back():
    generator = random.Random(0)
    for _ in range(2000):
        stops = ["".join(generator.choices("ab", k=generator.randint(1, 6))) for _ in range(2)]
        text = "".join(generator.choices("abc", k=generator.randint(0, 12)))
        beginnings = [stop[:length] for stop in stops for length in range(len(stop))]
        longest = max((len(part) for part in beginnings if text.endswith(part)), default=0)
        assert StopMatcher(stops).held_back(text) == longest


def output(tokenizer, stops=(), **more):
    detokenizer = IncrementalDetokenizer(tokenizer)
    return StoryOutput(0, detokenizer, StopMatcher(stops), tokenizer.eot_id, **more)


def test_a_stop_that_begins_is_held_back_until_it_is_none(tokenizer):
    story, sent = output(tokenizer, ["cat!"]), []
    for token_id in [*tokenizer.encode("the"), *tokenizer.encode(" ca"), *tokenizer.encode("t?")]:
        story.add(Token(token_id))
        piece = story.next_piece()
        sent.append(piece.text if piece else "")
    assert "".join(sent) == "the cat?"
    assert not any(text.endswith(("c", "ca")) for text in sent)


def test_tokens_of_a_stop_sequence_are_not_counted(tokenizer):
    story = output(tokenizer, ["cat"])
    for token_id in tokenizer.encode("the cat sat"):
        story.add(Token(token_id))
    piece = story.next_piece()
    assert piece.text == "the "
    assert piece.finish_reason == "stop"
    assert story.token_count == len(piece.tokens)
    assert all(offset < 4 for offset in piece.offsets)


def test_offsets_count_from_an_echoed_prompt(tokenizer):
    story = output(tokenizer, offset=100)
    story.add(Token(tokenizer.encode("a")[0]))
    story.add(Token(tokenizer.encode("b")[0], finish_reason="length"))
    assert story.next_piece().offsets == (100, 101)


def test_the_end_of_text_token_is_in_no_text_and_no_count_but_is_reported(tokenizer):
    """So that those who score texts find the token that they asked to be written behind them."""
    story = output(tokenizer)
    story.add(Token(tokenizer.encode("a")[0], logprob=-1.0))
    story.add(Token(tokenizer.eot_id, logprob=-2.0, finish_reason="stop"))
    piece = story.next_piece()
    assert (piece.text, story.token_count) == ("a", 1)
    assert [token.logprob for token in piece.tokens] == [-1.0, -2.0]
    assert piece.offsets == (0, 1)
