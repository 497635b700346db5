import pytest

from slm.page.markdown import literal


@pytest.mark.parametrize(
    "text", ["![](http://host/x)", "[a](b)", "`x`", "**b**", "<i>", "$x$", "_a_"]
)
def test_markdown_is_shown_and_not_obeyed(text):
    markdown = pytest.importorskip("markdown_it")  # CommonMark's rules
    html = markdown.MarkdownIt().render(literal(text))
    assert not any(tag in html for tag in ("<img", "<a ", "<code", "<strong", "<em", "<i>"))


def test_ordinary_names_stay_as_they_are():
    assert literal("runs/mine-2 (number 2 of this name).txt") == (
        "runs/mine-2 (number 2 of this name).txt"
    )
