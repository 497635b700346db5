import pytest

pytest.importorskip("streamlit")

from slm.page.explanation import explain
from slm.page.models import LoadedModel
from slm.page.story_view import ending_sentence, view_data
from slm.page.writing_job import THE_END, WritingJob

NASTY = "<script>alert(1)</script> & \"quotes\" 'too' **bold** $x$ [a](b)\n\nnew </div>"


def test_a_story_being_written_is_given_as_it_is():
    data = view_data(NASTY, NASTY[:9], None, is_running=True)
    assert data["text"] == NASTY
    assert data["given"] == 9
    assert data["tokens"] == []


def test_a_text_that_does_not_begin_with_the_prompt_has_nothing_given():
    assert view_data("Other", "The cat", None, is_running=True)["given"] == 0


def test_the_prompt_is_measured_as_javascript_measures_it():
    assert view_data("a🐉 flew", "a🐉", None, is_running=True)["given"] == 3  # 🐉 is two units


def test_a_finished_story_is_the_text_of_its_tokens(random_model, tokenizer):
    explanation = explain(random_model(context_length=256), tokenizer, NASTY)
    data = view_data(NASTY, "", explanation, is_running=False)
    assert "".join(token["text"] for token in data["tokens"]) + data["rest"] == NASTY
    for token in data["tokens"]:
        assert sum(came for _, _, _, came in token["alternatives"]) == 1
        assert all(0 < share <= 1 for _, share in token["listened"])


def test_how_a_story_ended_is_said_with_its_seed(random_model, tokenizer):
    chosen = LoadedModel("own", 1, random_model(), tokenizer)
    job = WritingJob(chosen, "The", [{"seed": 4711}])
    job.texts = ["The cat sat."]
    job.endings = [THE_END]
    assert ending_sentence(job, 0) == (
        "The end. 3 words. With the same beginning and settings, seed 4711 (under More settings) "
        "writes it again."
    )
