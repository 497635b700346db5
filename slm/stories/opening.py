"""How most stories begin: with these words a model is asked for a sample."""

import re
from collections import Counter
from collections.abc import Sequence

from slm.stories.cleaning import DENSE

MOST_WORDS = 4  # "Once upon a time"
COMMON = 0.02  # share of the stories that must begin alike
SAMPLED = 10_000  # stories: more would not change the answer
_LONGEST = 200  # characters of a story's beginning that are read

# Chinese and Japanese have no spaces: there, two characters stand for a word.
_WORD = re.compile(rf"[{DENSE}]{{1,2}}|[^\s{DENSE}]+")
_PUNCTUATION = re.compile(r"[,.;:!?…،؛؟。、，！？：；।—–]")


def commonest_opening(stories: Sequence[str]) -> str:
    """The words with which most stories begin, at most four and up to the first punctuation mark.

    Where hardly two stories begin with the same four words, the commonest three are taken, and so
    on. Of openings that are equally common, the one that comes first. Raises ValueError without a
    story.
    """
    if not stories:
        raise ValueError("There are no stories to take an opening from: give at least one.")
    beginnings = [story.strip()[:_LONGEST] for story in stories[:SAMPLED]]
    for words in range(MOST_WORDS, 0, -1):
        openings = Counter(_opening(beginning, words) for beginning in beginnings)
        opening, count = openings.most_common(1)[0]
        if count > 1 and count >= COMMON * len(beginnings):
            return opening
    return _opening(beginnings[0], MOST_WORDS)


def _opening(beginning: str, words: int) -> str:
    """The first words of a story, up to a punctuation mark that stands behind one of them."""
    end = 0
    for match in list(_WORD.finditer(beginning))[:words]:
        punctuation = _PUNCTUATION.search(match[0], 1)
        if punctuation:
            return beginning[: match.start() + punctuation.start()]
        if end and _PUNCTUATION.match(match[0]):
            break  # a mark of its own, as between Chinese characters
        end = match.end()
    return beginning[:end]
