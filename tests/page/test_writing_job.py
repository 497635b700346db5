import pytest

pytest.importorskip("streamlit")

import slm
from slm.page import writing_job
from slm.page.models import LoadedModel
from slm.page.writing_job import CUT_OFF, STOPPED, THE_END, StoryWriter, WritingJob


@pytest.fixture
def chosen(random_model, tokenizer):
    return LoadedModel("own", 1, random_model(), tokenizer)


def settings(**changes):
    return {"temperature": 1.0, "max_new_tokens": 20, "seed": 3} | changes


def write(chosen, *settings):
    job = WritingJob(chosen, "The cat", list(settings))
    job.start()
    job.wait()
    assert job.error == ""
    return job


def test_stories_are_those_of_the_package_and_are_explained(chosen):
    job = write(chosen, settings(), settings(seed=4), settings(max_new_tokens=5))
    expected = [
        slm.generate(chosen.model, chosen.tokenizer, "The cat", **settings(**changes))
        for changes in ({}, {"seed": 4}, {"max_new_tokens": 5})
    ]
    assert job.texts == expected
    for text, explanation in zip(job.texts, job.explanations, strict=True):
        assert "".join(token.text for token in explanation.tokens) + explanation.rest == text


@pytest.mark.parametrize("prompt", ["", "The cat", " Ünïted 🐈"])
def test_the_pieces_are_those_of_the_stream(chosen, prompt):
    writer = StoryWriter(chosen.model, chosen.tokenizer, prompt, settings(max_new_tokens=60))
    expected = slm.stream(chosen.model, chosen.tokenizer, prompt, **settings(max_new_tokens=60))
    assert [piece for piece in writer.pieces() if piece] == list(expected)


@pytest.mark.parametrize("has_end, ending", [(True, THE_END), (False, CUT_OFF)])
def test_how_a_story_ended_is_known(chosen, monkeypatch, has_end, ending):
    cat, end = chosen.tokenizer.encode(" cat"), chosen.tokenizer.eot_id
    ids = [*cat, end] if has_end else cat
    monkeypatch.setattr(writing_job, "generate_ids", lambda *_: [[each] for each in ids])
    job = write(chosen, settings(seed=7))
    assert job.texts == ["The cat cat"]
    assert job.endings == [ending]
    assert job.seeds == [7]


def test_what_was_written_before_a_stop_stays_and_is_explained(chosen, monkeypatch):
    def pieces(_):
        yield "The cat"
        job.stop()
        yield " sat"
        raise AssertionError("it was not stopped")

    monkeypatch.setattr(StoryWriter, "pieces", pieces)
    job = WritingJob(chosen, "The cat", [settings()])
    job.start()
    job.wait()
    assert job.error == ""
    assert job.texts == ["The cat sat"]  # what comes after the token that was being decoded
    assert job.endings == [STOPPED]
    assert job.explanations[0].tokens
