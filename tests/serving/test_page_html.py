from html.parser import HTMLParser

import pytest

from slm.serving.page_html import coloured, plain

NASTY = "<script>alert(1)</script> & \"quotes\" 'too' **bold** $x$ [a](b)\n\nnew </div>"


class Text(HTMLParser):
    """The text of some HTML, and its tags."""

    def __init__(self, html):
        super().__init__()
        self.text, self.tags = "", set()
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.text += "\n" if tag == "br" else ""

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("html", [plain(NASTY), plain(NASTY, NASTY[:9]), plain(NASTY, "other")])
def test_a_story_is_shown_as_it_is_whatever_it_holds(html):
    shown = Text(html)
    assert shown.text == NASTY
    assert shown.tags <= {"div", "b", "br"}


def test_coloured_words_are_escaped_too():
    pieces = [NASTY[:5], NASTY[5:20], NASTY[20:]]
    html = coloured(pieces, [0.0, 2.0, -1.0], chosen=1)
    shown = Text(html)
    assert shown.text == NASTY
    assert shown.tags <= {"div", "span", "br"}
    assert "0.60)" in html and "0.00)" in html
