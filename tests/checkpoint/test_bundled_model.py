"""The bundled model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import slm
from slm.analysis.report_measurements import sample_stories
from slm.stories.files import read_stories

BOX = Path(slm.__file__).parent / "assets" / "stories"


@pytest.fixture(scope="module")
def writer():
    return slm.load_model("stories")


def test_it_takes_at_most_12_megabytes():
    assert sum(path.stat().st_size for path in BOX.iterdir()) <= 12_000_000


def test_it_is_a_hugging_face_model_as_it_lies_there(writer):
    model, _ = writer
    theirs = AutoModelForCausalLM.from_pretrained(BOX, dtype=torch.float32).eval()
    ids = torch.arange(60).view(2, 30)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-3, atol=1e-3)


def test_it_predicts_stories_that_nobody_has_seen(writer):
    tales = read_stories("lighthouse")[:20]
    score = slm.evaluate(*writer, tales)
    guessing = slm.evaluate(slm.Transformer(writer[0].config), writer[1], tales)
    assert score.bits_per_byte < 0.55 * guessing.bits_per_byte


def test_its_stories_end_by_themselves_and_are_of_words(writer):
    stories, stopped = sample_stories(*writer, 40, temperature=0.8, max_new_tokens=400, seed=0)
    assert stopped >= 0.9
    assert sum(story.rstrip()[-1:] in '.!?"' for story in stories) >= 36
    common = set(" ".join(stories).lower().split())
    assert {"the", "and", "was", "said", "a", "to"} <= common
    assert slm.distinct(stories) > 0.5
    assert slm.repetition(stories) < 0.1


def test_its_card_says_how_it_was_made():
    card = (BOX / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    for words in ("python -m slm train", "TinyStories", "bits per byte", "limits", "CDLA"):
        assert words in card
