from collections import Counter

from slm.analysis.openings import OPENINGS


def test_there_are_at_least_three_openings_for_each_of_six_probes():
    counts = Counter(opening.probe for opening in OPENINGS)
    assert len(OPENINGS) >= 20
    assert set(counts) == {
        *("grammar", "names", "consistency"),
        *("cause and effect", "dialogue", "endings"),
    }
    assert min(counts.values()) >= 3


def test_no_opening_comes_twice_and_each_says_what_to_notice():
    texts = [opening.text for opening in OPENINGS]
    assert len(set(texts)) == len(texts)
    assert all(text == text.strip() and opening.notice for text, opening in zip(texts, OPENINGS))
