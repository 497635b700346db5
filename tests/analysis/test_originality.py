from difflib import SequenceMatcher
from random import Random

import pytest

from slm.analysis.originality import Copy, distinct, longest_copies, repetition
from slm.stories.practice import practice_stories


def texts(seed, count, words="abc", longest=30):
    """Texts of so few different words that long runs of them come twice."""
    random = Random(seed)
    return [" ".join(random.choices(words, k=random.randrange(longest))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("words", ["ab", "abcdefgh"])
def test_the_longest_copy_is_the_one_that_difflib_finds(seed, words):
    training, stories = texts(seed, 12, words, 60), texts(seed + 100, 20, words, 90)
    for story, copy in zip(stories, longest_copies(stories, training), strict=True):
        matchers = [SequenceMatcher(None, story.split(), t.split(), False) for t in training]
        assert copy.words == max(matcher.find_longest_match().size for matcher in matchers)
        assert copy.of == len(story.split())
        assert copy.text.split() == story.split()[copy.start : copy.start + copy.words]
        assert any(f" {copy.text} " in f" {text} " for text in training) or not copy.words


def test_a_copied_story_is_found_whole_and_said_to_be_large():
    training = practice_stories(30)
    mine = "Quite something else altogether: " + training[7]
    whole, part, new = longest_copies([training[7], mine, "Nobody wrote this."], training)
    assert whole == Copy(0, whole.of, len(training[7].split()), " ".join(training[7].split()))
    assert (part.start, part.words, part.of) == (4, whole.of, whole.of + 4)
    assert whole.large and part.large and not new.large


def test_a_run_does_not_go_from_one_training_story_into_the_next():
    [copy] = longest_copies(["one two three four"], ["one two", "three four"])
    assert (copy.words, copy.text) == (2, "one two")


def test_no_copy_is_longer_than_asked_for():
    story = " ".join(map(str, range(50)))
    assert longest_copies([story], [story], most=10)[0].words == 10
    assert longest_copies([story], [story])[0].words == 50


def test_an_empty_story_and_one_of_unknown_words_copy_nothing():
    empty, unknown = longest_copies(["", "x y z"], ["a b c"])
    assert empty == Copy(0, 0, 0, "")
    assert (unknown.words, unknown.text, unknown.large) == (0, "", False)


@pytest.mark.parametrize("given", [([], ["a"]), (["a"], []), ("a", ["a"]), (["a"], "a")])
def test_no_stories_are_refused(given):
    with pytest.raises(ValueError, match="list of stories"):
        longest_copies(*given)


@pytest.mark.parametrize("measure", [distinct, repetition])
def test_one_text_is_no_list_of_stories(measure):
    with pytest.raises(ValueError, match="list of stories"):
        measure("a b c d e")


def test_distinct_and_repetition_count_runs_of_words():
    assert distinct(["a b c", "a b d"], n=2) == 3 / 4  # a b, b c, a b, b d
    assert distinct(["a b", "a b"], n=3) == 0
    assert repetition(["a b a b a"], n=2) == 1 - 2 / 4  # a b, b a, a b, b a
    assert repetition(["a b c d", "x x x x"], n=1) == pytest.approx((0 + 3 / 4) / 2)
    assert repetition(["too short"], n=4) == 0
