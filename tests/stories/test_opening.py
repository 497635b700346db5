import pytest

from slm.stories import commonest_opening
from slm.stories.practice import practice_stories


@pytest.mark.parametrize(
    ("stories", "opening"),
    [
        (
            ["Once upon a time, there was", "Once upon a time there was", "One day,"],
            "Once upon a time",
        ),
        (["One day, a cat sat.", "One day, a dog ran.", "It was late."], "One day"),
        (["The robot slept.", "The robots ran.", "The robot ran."], "The robot"),
        (["从前，有一只小兔子。", "从前，有一只小猫。", "有一天，小猫出去玩。"], "从前"),
        (["むかしむかし、あるところに", "むかしむかし、山に", "ある日、"], "むかしむかし"),
        (["एक समय की बात है, एक राजा", "एक समय की बात है, एक गाँव"], "एक समय की बात"),
        (["كان يا ما كان، في قديم", "كان يا ما كان، قط"], "كان يا ما كان"),
        (["Жили-были старик", "Жили-были кот", "Однажды"], "Жили-были"),
        (["All of this is one story.", "Another one begins so."], "All of this is"),
        (["  \nOnce more", "Once more"], "Once more"),
        (["Hi"], "Hi"),
    ],
)
def test_the_opening_that_most_stories_share(stories, opening):
    assert commonest_opening(stories) == opening


def test_the_practice_corpus_begins_as_fairy_tales_do():
    assert commonest_opening(practice_stories(300)) == "Once upon a time"


def test_a_book_without_a_space_gives_no_endless_opening():
    assert len(commonest_opening(["ก" * 100_000])) <= 200


def test_without_a_story_there_is_no_opening():
    with pytest.raises(ValueError, match="at least one"):
        commonest_opening([])
