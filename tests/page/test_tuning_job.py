import pytest

pytest.importorskip("streamlit")

import slm
from slm.page import tuning_job
from slm.page.models import LoadedModel
from slm.page.saved_state import FineTuningSlot
from slm.page.tune_tab import duration, progress_sentence
from slm.page.tuning_job import Progress, TuningJob
from slm.stories.cleaning import Cleaning, Stories
from slm.stories.practice import practice_stories

TEXTS = [f"The robot number {i} said bleep, and went to turn the light." for i in range(12)]


@pytest.fixture
def ordinary(monkeypatch):
    texts = practice_stories(40)
    stories = Stories(texts[:30], texts[30:], "some", True, Cleaning(40, 0, 0, 0, 0, 40))
    monkeypatch.setattr(tuning_job, "load_stories", lambda n: stories)
    return stories


@pytest.fixture
def job(ordinary, random_model, tokenizer, tmp_path):
    return TuningJob(LoadedModel("own", 1, random_model(), tokenizer), TEXTS, tmp_path / "mine")


def run(job, after_step=None):
    """Run a job in this thread, with something done before it hears of each step."""
    if after_step:
        hears = job.after_step

        def first(share, scores):
            after_step(share, scores)
            return hears(share, scores)

        job.after_step = first
    job.work()


def test_it_gives_the_numbers_of_the_package(job, ordinary, random_model, tokenizer):
    run(job)
    expected = slm.finetune(random_model(), tokenizer, TEXTS, ordinary=ordinary)
    assert job.result.epochs == expected.epochs
    assert job.progress.share <= 1 and job.is_practice
    assert slm.load_model(job.folder)


def test_samples_begin_as_ones_own_stories_do(job):
    job._stories = [
        "A fox ran away. " * 5,
        "A fox ran away, and so on. " * 5,
        "Mia, six, hid. " * 5,
    ]
    run(job)
    assert [sample.opening for sample in job.samples] == ["A fox ran away", "Mia"]
    for sample in job.samples:
        assert sample.before.startswith(sample.opening)
        assert sample.after.startswith(sample.opening)
        assert sample.before != sample.after


def test_stopped_in_the_first_round_it_leaves_nothing_behind(job):
    run(job, lambda *_: job.stop())
    assert job.was_cancelled and job.result is None
    assert not job.folder.exists()


def test_stopped_in_the_first_round_it_leaves_an_older_model_as_it_was(job, random_model):
    from slm.checkpoint.saving import save_model_as
    from slm.utils.folder_marker import FINE_TUNED

    save_model_as(FINE_TUNED, job.folder, random_model(seed=9), job._chosen.tokenizer)
    weights = (job.folder / "model.safetensors").read_bytes()
    run(job, lambda *_: job.stop())
    assert (job.folder / "model.safetensors").read_bytes() == weights


def test_stopped_later_it_saves_the_best_so_far(job):
    run(job, lambda share, scores: job.stop() if len(scores) == 1 else None)
    assert not job.was_cancelled
    assert 1 <= len(job.result.epochs) < 20
    assert slm.load_model(job.folder)


def test_what_fails_leaves_no_new_folder(ordinary, random_model, tokenizer, tmp_path):
    chosen = LoadedModel("own", 1, random_model(), tokenizer)
    job = TuningJob(chosen, ["Too short."], tmp_path / "mine")
    with pytest.raises(ValueError, match="Too few stories"):
        job.work()
    assert not job.folder.exists()


def test_the_progress_is_told_in_words(job):
    assert "getting ready" in progress_sentence(job)
    job.progress = Progress(0.1, (), None)
    assert "round 1" in progress_sentence(job)
    job.progress = Progress(0.5, (3.0, 2.456), 600.0)
    assert "round 3" in progress_sentence(job)
    assert "surprise at those kept aside 2.46 (less is better)" in progress_sentence(job)
    assert "at most 10 minutes left" in progress_sentence(job)
    job.progress = Progress(1.0, (3.0,), 0.0)
    assert "measuring and saving" in progress_sentence(job)


def test_the_time_that_is_left_follows_from_the_steps_done(job, monkeypatch):
    clock = iter([100.0, 103.0])
    monkeypatch.setattr(tuning_job.time, "monotonic", lambda: next(clock))
    job.after_step(0.1, [])
    assert job.progress.seconds_left is None
    job.after_step(0.4, [])
    assert job.progress.seconds_left == pytest.approx(6.0)


@pytest.mark.parametrize(
    "seconds, words",
    [(5, "a minute"), (80, "a minute"), (600, "10 minutes"), (7_200, "2 hours")],
)
def test_a_time_is_told_roughly(seconds, words):
    assert duration(seconds) == words


def test_only_one_model_is_fine_tuned_at_a_time(job, random_model, tokenizer, tmp_path):
    import threading

    go_on = threading.Event()
    job.work = go_on.wait
    slot = FineTuningSlot()
    other = TuningJob(LoadedModel("own", 1, random_model(), tokenizer), TEXTS, tmp_path / "other")
    assert slot.start(job)
    assert not slot.start(other)
    assert slot.job is job
    go_on.set()
    job.wait()
    other.work = lambda: None
    assert slot.start(other)
    other.wait()
