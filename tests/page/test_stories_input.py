import pytest

pytest.importorskip("streamlit")

from slm.page.stories_input import _count, split_pasted
from slm.stories.practice import practice_stories


@pytest.mark.parametrize(
    "text, stories, separator",
    [
        ("", [], ""),
        (" \n ", [], ""),
        ("One.\nTwo.", ["One.\nTwo."], ""),
        ("One.\n\nTwo.", ["One.", "Two."], "a blank line"),
        ("One.\r\n \r\nTwo.\r\n", ["One.", "Two."], "a blank line"),
        ("One.\n\nMore.\n\n\nTwo.", ["One.\n\nMore.", "Two."], "two blank lines"),
        ("One.\n\n\nMore.\n---\nTwo.", ["One.\n\n\nMore.\n", "\nTwo."], "a line of ---"),
        ("One.\n* * *\nTwo.", ["One.\n", "\nTwo."], "a line of ---"),
        ("One.\n<|endoftext|>\nTwo.", ["One.\n", "\nTwo."], "a line of ---"),
        ("One --- more.\n- a\n-- b", ["One --- more.\n- a\n-- b"], ""),
        ("---\nOne.\n---\n", ["\nOne.\n"], "a line of ---"),
    ],
)
def test_pasted_stories_are_separated_as_they_seem_to_be(text, stories, separator):
    assert split_pasted(text) == (stories, separator)


def test_only_stories_that_are_learnt_from_are_counted():
    one, two = practice_stories(2)
    assert _count([one]) == "1 story"
    assert _count([one, two, "", " "]) == "2 stories"
    assert _count([one, two, one, "Too short."]) == (
        "2 stories (and, left out, 1 with fewer than 50 letters and 1 that came before)"
    )
