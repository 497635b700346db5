import errno
from html.parser import HTMLParser

import pytest
import torch

from slm import story_report
from slm.analysis.openings import OPENINGS
from slm.analysis.report_measurements import hardest_words, sample_stories
from slm.stories.cleaning import Cleaning, Stories
from slm.stories.practice import practice_stories
from slm.tokenizer.training import train_tokenizer


class Page(HTMLParser):
    """The tags that a page opens and never closes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.tags = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def stories():
    texts = practice_stories(40)
    return Stories(texts[:30], texts[30:], "<practice>", True, Cleaning(40, 0, 0, 0, 0, 40))


@pytest.fixture
def page(random_model, tokenizer, stories, tmp_path):
    # A context this short makes the samples soon forget, but each fits the test's time.
    given = dict(name="a <b>bold</b> model", file=tmp_path / "sub" / "report.html")
    path = story_report(random_model(), tokenizer, stories, samples=5, **given)
    assert path == given["file"]
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_is_whole_in_itself_and_escapes_all_text(page):
    assert page.open == []
    assert "a <b>bold</b> model" in page.text and "<practice>" in page.text
    links = [value for _, attributes in page.tags for value in attributes.values() if value]
    assert not any(link.startswith(("http", "//", "file")) for link in links)
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2
    assert all(picture.startswith("data:image/png;base64,") for picture in pictures)


def test_the_page_has_scores_originality_and_a_story_for_each_opening(page):
    for words in ("bits per byte", "trigram", "bigram", "perplexity", "stop by themselves"):
        assert words in page.text
    assert sum(tag == "blockquote" for tag, _ in page.tags) == len(OPENINGS)
    assert [opening.text for opening in OPENINGS if opening.text not in page.text] == []


def test_a_tokenizer_of_another_model_is_refused(random_model, stories, tmp_path):
    other = train_tokenizer(practice_stories(20), 300)
    with pytest.raises(ValueError, match=r"280.*300"):
        story_report(random_model(), other, stories, file=tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_a_list_of_stories_is_refused_as_none_are_held_out(random_model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"^Give stories as slm\.load_stories\(\) does"):
        story_report(random_model(), tokenizer, practice_stories(9), file=tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_measured(
    random_model, tokenizer, stories, tmp_path, monkeypatch
):
    monkeypatch.setattr("slm.analysis.report.measure", lambda *arguments: pytest.fail("measured"))
    (tmp_path / "a file").touch()
    with pytest.raises(OSError, match="cannot be written: a folder is where a file must be"):
        story_report(random_model(), tokenizer, stories, file=tmp_path)
    with pytest.raises(OSError, match="cannot be written: a file is where a folder must be"):
        story_report(random_model(), tokenizer, stories, file=tmp_path / "a file" / "page.html")


def test_a_disk_that_is_full_at_the_end_is_said_with_the_pages_name(
    random_model, tokenizer, stories, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", ".hidden.part")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setattr("slm.analysis.report.write", full)
    with pytest.raises(OSError, match=r"page\.html cannot be written: the disk is full") as caught:
        story_report(random_model(), tokenizer, stories, file="~/page.html", samples=1)
    assert str(caught.value).startswith(str(tmp_path))


def test_the_share_that_stops_is_the_share_of_rows_with_an_end(random_model, tokenizer):
    model = random_model()
    stories, share = sample_stories(model, tokenizer, 6, max_new_tokens=3, seed=0)
    assert len(stories) == 6 and share == 0
    model.register_forward_hook(
        lambda module, given, logits: logits.index_fill(
            -1, torch.tensor([tokenizer.eot_id]), 1000.0
        )
    )
    assert sample_stories(model, tokenizer, 6, max_new_tokens=3, seed=0) == ([""] * 6, 1.0)


def test_hardest_words_adds_up_the_tokens_of_a_word(tokenizer):
    stories = ["cat zoo. cat", "zoo cat"]
    pieces = [tokenizer.pieces(tokenizer.encode(story)) for story in stories]
    nats = [torch.arange(1.0, len(some) + 2) for some in pieces]  # and one for the end
    expected = {"cat": [], "zoo": []}
    for some, losses in zip(pieces, nats, strict=True):
        spelled = [(piece.strip(), loss) for piece, loss in zip(some, losses.tolist())]
        word, total = "", 0.0
        for piece, loss in spelled:
            word, total = (word + piece, total + loss) if piece.isalpha() else ("", 0.0)
            if word in expected:
                expected[word].append(total)
                word, total = "", 0.0
    found = {
        word: (loss, count) for word, loss, count in hardest_words(nats, tokenizer, stories, 2)
    }
    assert found == {word: (pytest.approx(sum(x) / len(x)), len(x)) for word, x in expected.items()}
    assert hardest_words(nats, tokenizer, stories, min_count=4) == []
