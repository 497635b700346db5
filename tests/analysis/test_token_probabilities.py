from html.parser import HTMLParser

import pytest
import torch

from slm.analysis.attention import attention_maps
from slm.analysis.explaining import coloured, explain, listened_to, plain

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


def test_token_probabilities_are_the_softmax_of_the_logits(random_model, tokenizer):
    model, text = random_model(), "The cat sat"
    ids = [tokenizer.eot_id, *tokenizer.encode(text)]
    with torch.no_grad():
        chances = model(torch.tensor([ids[:-1]]))[0].softmax(-1)
    words = explain(model, tokenizer, text, n_likeliest=3)
    assert "".join(word.piece for word in words) == text
    for t, word in enumerate(words):
        assert word.probability == pytest.approx(chances[t, ids[t + 1]].item(), rel=1e-4)
        values, places = chances[t].topk(3)
        assert [piece for piece, _ in word.likeliest] == tokenizer.pieces(places.tolist())
        assert [chance for _, chance in word.likeliest] == pytest.approx(values.tolist(), rel=1e-4)


def test_a_text_longer_than_the_context_is_explained_as_far_as_it_reaches(random_model, tokenizer):
    model = random_model()
    assert len(explain(model, tokenizer, "The cat sat. " * 50)) == model.config.context_length
    assert explain(model, tokenizer, "") == []


def test_attention_is_the_mean_over_heads_and_layers(random_model, tokenizer):
    model, text = random_model(), "The cat sat"
    ids = [tokenizer.eot_id, *tokenizer.encode(text)]
    row = attention_maps(model, torch.tensor(ids)).mean((0, 1))[4, 1:5]
    heard = listened_to(model, tokenizer, text, 3)
    assert heard == pytest.approx((row / row.sum()).tolist())
    assert listened_to(model, tokenizer, text, 0) == [1.0]


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
