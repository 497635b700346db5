"""Stories come in from files, from the hub or from a practice grammar, and are cleaned."""

from slm.stories.cleaning import Cleaning, Stories, clean_stories, repair_mojibake, tidy_whitespace
from slm.stories.files import read_stories
from slm.stories.loading import load_stories
from slm.stories.opening import commonest_opening

__all__ = [
    "Cleaning",
    "Stories",
    "clean_stories",
    "commonest_opening",
    "load_stories",
    "read_stories",
    "repair_mojibake",
    "tidy_whitespace",
]
