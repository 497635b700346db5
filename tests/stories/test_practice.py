import random
import re

import pytest

from slm.stories import practice
from slm.stories.practice import generate_story, load_grammar, practice_stories


@pytest.fixture(scope="module")
def stories():
    return practice_stories(3000, seed=3)


def test_twenty_thousand_stories_are_all_different():
    assert len(set(practice_stories(20_000))) == 20_000


def test_the_same_seed_gives_the_same_stories_and_another_seed_gives_others():
    assert practice_stories(50, seed=1) == practice_stories(50, seed=1)
    assert not set(practice_stories(50, seed=1)) & set(practice_stories(50, seed=2))


def test_asking_for_more_only_adds_to_the_end():
    assert practice_stories(200, seed=5)[:80] == practice_stories(80, seed=5)


def test_the_global_random_state_is_left_alone():
    random.seed(0)
    expected = random.random()
    random.seed(0)
    practice_stories(5)
    assert random.random() == expected


@pytest.mark.parametrize(
    "mistake",
    [
        r"[{}\[\]|¶“”]",  # marks of the grammar
        r"  | \n|\n |\n{3}| [.,!?]|[.,!?][.,]",  # spacing and punctuation
        r"\b[Aa] [aeiouAEIOU]|\b[Aa]n [^aeiouAEIOU\W]",
        r"(?m)^\"?[a-z]|\. [a-z]|[.!?]\" [a-z]+\.",  # a sentence without a capital
        r"\b(?!had\b)([A-Za-z]+) \1\b",  # a word twice
    ],
)
def test_no_story_contains(stories, mistake):
    assert [found[0] for story in stories if (found := re.search(mistake, story))] == []


def test_every_paragraph_closes_its_quotes_and_ends_its_last_sentence(stories):
    for paragraph in "\n\n".join(stories).split("\n\n"):
        assert paragraph.count('"') % 2 == 0
        assert re.search(r'[.!?]"?$', paragraph), paragraph


def test_stories_have_two_to_five_paragraphs_and_a_length_a_small_model_can_hold(stories):
    assert {story.count("\n\n") + 1 for story in stories} == {2, 3, 4, 5}
    assert all(400 < len(story) < 1200 for story in stories)


def test_the_hero_who_opens_the_story_also_closes_it(stories):
    heroes = "|".join(hero["name"] for hero in load_grammar()["groups"]["heroes"])
    for story in stories:
        first, *_, last = story.split("\n\n")
        hero = re.search(rf"\b({heroes})\b", first)[0]
        assert re.search(rf"\b{hero}\b", last), story


def test_beginnings_and_endings_vary(stories):
    share = sum(story.startswith("Once upon a time") for story in stories) / len(stories)
    assert 0.4 < share < 0.6
    assert len({story[-12:] for story in stories}) > 50


def test_what_is_lost_is_what_is_found():
    grammar = load_grammar()
    grammar["plots"] = {"lost": grammar["plots"]["lost and found"]}
    grammar["phrases"]["story"] = ["{loss} ¶ {helper} ¶ {wish} {solution}"]
    flyers = {bird["name"] for bird in grammar["groups"]["flyers"]}
    for seed in range(200):
        thing, helper, story = generate_story(grammar, random.Random(seed)).split("\n\n")
        assert story.count(thing.split()[-1]) >= 2  # a toy boat is also “the boat”
        assert helper in story
        assert not (helper in flyers and thing in {"ball", "toy boat", "key", "marble"})


def test_there_are_many_plots_and_each_has_several_ways_to_tell_every_beat():
    grammar = load_grammar()
    beats = ["wish", "trouble", "attempt", "help", "turn", "solution", "lesson"]
    assert len(grammar["plots"]) >= 10
    for name, plot in grammar["plots"].items():
        assert all(len(set(plot[beat])) >= 5 for beat in beats), name


def test_there_are_many_heroes_and_no_two_characters_share_a_name():
    groups = load_grammar()["groups"]
    characters = [
        member["name"]
        for name, members in groups.items()
        if name != "parents"
        for member in members
        if "he" in member
    ]
    assert len(groups["heroes"]) >= 40
    assert len(set(characters)) == len(characters)


@pytest.mark.parametrize("n", [0, -1, practice.MOST_STORIES + 1])
def test_an_impossible_number_is_refused_with_the_range_that_is_possible(n):
    with pytest.raises(ValueError, match="ask for 1 to 1,000,000"):
        practice_stories(n)


def small_grammar(story):
    plots = {"only": {"cast": {}, "story": [story]}}
    return {"cast": {}, "groups": {}, "pronouns": {}, "phrases": {}, "plots": plots}


def test_a_grammar_that_runs_out_says_how_many_stories_it_gave(monkeypatch):
    monkeypatch.setattr(practice, "load_grammar", lambda: small_grammar("A [cat|dog] ran."))
    assert sorted(practice_stories(2)) == ["A cat ran.", "A dog ran."]
    with pytest.raises(ValueError, match="only 2 of the 3"):
        practice_stories(3)


def test_a_misspelt_slot_is_named():
    with pytest.raises(ValueError, match=r"\{heor\}"):
        generate_story(small_grammar("Hello {heor}."), random.Random(0))


def test_an_article_fits_the_word_that_follows():
    assert generate_story(small_grammar("A [owl] saw a [old] hat."), random.Random(0)) == (
        "An owl saw an old hat."
    )
