from pathlib import Path

import pytest

import slm

pytest.importorskip("streamlit")

from streamlit.testing.v1 import AppTest

from slm.checkpoint.saving import save_model_as
from slm.page import tuning_job
from slm.page.saved_state import SavedPage, _saved_pages, fine_tuning_slot
from slm.page.tuning_job import TuningJob
from slm.page.writing_job import StoryWriter
from slm.stories.cleaning import Cleaning, Stories
from slm.stories.files import read_stories
from slm.stories.practice import practice_stories
from slm.utils.folder_marker import FINE_TUNED

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # a random model writes strange signs
APP = Path(slm.__file__).parent / "page" / "app.py"


@pytest.fixture
def saved():
    """What is saved of the page, which outlives the runs of its script."""
    saved = _saved_pages()["test"] = SavedPage()
    yield saved
    for job in (saved.story, saved.pair, fine_tuning_slot().job):
        if job is not None:
            job.stop()
            job.wait()
    fine_tuning_slot().job = None


@pytest.fixture
def page(tmp_path, monkeypatch, saved, random_model, tokenizer):
    """The page, in a folder with one model of its own, which is chosen."""
    monkeypatch.chdir(tmp_path)
    slm.save_model("runs/own", random_model(), tokenizer)
    return open_page("runs/own")


@pytest.fixture
def ordinary(request, monkeypatch):
    """Ordinary stories, as if they had been fetched from the hub or, if not, made up."""
    stories = practice(getattr(request, "param", True))
    monkeypatch.setattr(tuning_job, "load_stories", lambda n: stories)
    return stories


def practice(is_practice=True):
    texts = practice_stories(40)
    return Stories(texts[:30], texts[30:], "some", is_practice, Cleaning(40, 0, 0, 0, 0, 40))


def open_page(model=None):
    page = AppTest.from_file(str(APP), default_timeout=300)
    page.query_params["page"] = "test"
    if model:
        page.session_state["model"] = model
    page.run()
    assert not page.exception
    return page


def button(page, label):
    [found] = [button for button in page.button if button.label == label]
    return found


def labels(page):
    return {button.label for button in page.button}


def write(page, saved, prompt="The cat", **values):
    page.text_area(key="prompt").set_value(prompt)
    for name, value in values.items():
        page.slider(key=f"one-{name}").set_value(value)
    button(page, "Write").click().run()
    saved.story.wait()
    page.run()
    assert not page.exception
    return saved.story.texts[0]


def captions(page):
    return " ".join(caption.value for caption in page.caption)


def test_it_writes_the_story_that_the_package_writes(page, saved):
    story = write(page, saved, temperature=0.0, length=20)
    expected = slm.generate(
        *slm.load_model("runs/own"), "The cat", temperature=0, max_new_tokens=20
    )
    assert story == expected


def test_a_seed_writes_the_same_again(page, saved):
    page.number_input(key="one-seed").set_value(5)
    one = write(page, saved, length=20)
    assert write(page, saved, length=20) == one


def test_an_idea_becomes_the_prompt_and_can_be_taken_again(page):
    for _ in range(2):
        page.text_area(key="prompt").set_value("Something else")
        page.button(key="prompt-ideas").click().run()
        button(page, "The dragon was afraid of").click().run()
        assert page.text_area(key="prompt").value == "The dragon was afraid of"


def test_stop_is_there_only_while_there_is_something_to_stop(page, saved, monkeypatch):
    def endless(_):
        while True:
            yield "word "

    monkeypatch.setattr(StoryWriter, "pieces", endless)
    assert "Stop" not in labels(page)
    button(page, "Write").click().run()
    assert "Write" not in labels(page)
    page.slider(key="one-temperature").set_value(1.5).run()  # a touch, which stops nothing
    assert saved.story.is_running
    button(page, "Stop").click().run()
    saved.story.wait()
    page.run()
    assert {"Write", "Save as text"} <= labels_of_all(page)
    assert "Stop" not in labels(page)
    assert saved.story.texts[0].startswith("word word")


def labels_of_all(page):
    return labels(page) | {found.label for found in page.get("download_button")}


def test_a_page_that_is_reloaded_finds_its_story_and_its_model_again(page, saved):
    story = write(page, saved, prompt="The cat sat", length=20)
    again = open_page()
    assert saved.story.texts[0] == story
    assert again.text_area(key="prompt").value == "The cat sat"
    assert again.selectbox(key="model").value == "runs/own"
    assert "Written by runs/own." in captions(again)


def test_a_page_that_is_reloaded_shows_what_was_entered(page):
    page.slider(key="one-temperature").set_value(1.2)
    page.slider(key="left-length").set_value(50)
    page.number_input(key="right-seed").set_value(7)
    page.text_area(key="pasted").set_value("One.\n\nTwo.")
    page.text_input(key="name").set_value("robot")
    page.checkbox(key="tales").check().run()
    again = open_page()
    assert again.slider(key="one-temperature").value == 1.2
    assert again.slider(key="left-length").value == 50
    assert again.slider(key="right-length").value == 200
    assert again.number_input(key="right-seed").value == 7
    assert again.text_area(key="pasted").value == "One.\n\nTwo."
    assert again.text_input(key="name").value == "robot"
    assert again.checkbox(key="tales").value


@pytest.mark.parametrize("entered, taken", [(-3, 0), (2**40, 2**31)])
def test_a_seed_out_of_range_becomes_the_nearest_one_and_that_is_said(page, entered, taken):
    page.number_input(key="one-seed").set_value(entered).run()
    assert page.number_input(key="one-seed").value == taken
    assert "Seeds go from 0 to 2,147,483,648: the nearest one is taken." in captions(page)
    page.number_input(key="one-seed").set_value(5).run()
    assert "the nearest one" not in captions(page)


def test_how_a_story_ended_is_said_with_a_seed_that_writes_it_again(page, saved):
    story = write(page, saved, length=20)
    [seed] = saved.story.seeds
    assert f"seed {seed} (under More settings) writes it again." in captions(page)
    assert saved.story.endings[0] in captions(page)
    page.number_input(key="one-seed").set_value(seed)
    assert write(page, saved, length=20) == story


def test_pasted_stories_are_counted_below_the_box(page):
    assert "A blank line, or a line of ---, separates stories." in captions(page)
    one, two = (" ".join(story.split()) for story in practice_stories(2))
    page.text_area(key="pasted").set_value(f"{one}\n\n{two}").run()
    assert "2 stories found, separated by a blank line." in captions(page)


def test_an_old_story_is_marked_with_the_model_that_wrote_it(page, saved, random_model, tokenizer):
    write(page, saved, length=20)
    slm.save_model("runs/own", random_model(seed=2), tokenizer)
    page.run()
    assert "Written by runs/own as it was before" in captions(page)
    page.selectbox(key="model").set_value("the bundled model").run()
    assert "Written by runs/own. The next one will be by the bundled model." in captions(page)


def test_two_stories_have_settings_of_their_own(page, saved):
    for side, temperature in (("left", 0.0), ("right", 2.0)):
        page.slider(key=f"{side}-temperature").set_value(temperature)
        page.slider(key=f"{side}-length").set_value(20)
    page.text_area(key="prompt-two").set_value("The cat")
    button(page, "Write both").click().run()
    saved.pair.wait()
    page.run()
    assert not page.exception
    left, right = saved.pair.texts
    model = slm.load_model("runs/own")
    assert left == slm.generate(*model, "The cat", temperature=0, max_new_tokens=20)
    assert left != right


def begin_tuning(page, name="robot"):
    texts = [f"The robot number {i} said bleep, and went to the light." for i in range(10)]
    page.text_area(key="pasted").set_value("\n\n\n".join(texts))
    page.text_input(key="name").set_value(name).run()
    page.button(key="teach").click().run()
    assert not page.exception


@pytest.mark.parametrize("ordinary", [False, True], indirect=True, ids=["real", "practice"])
def test_fine_tuning_makes_a_model_that_can_be_used(page, ordinary):
    begin_tuning(page)
    fine_tuning_slot().job.wait()
    page.run()
    assert not page.exception
    assert page.success[0].value.startswith("It has learnt")
    assert any("made up for practice" in warning.value for warning in page.warning) == (
        ordinary.is_practice
    )
    page.button(key="use").click().run()
    assert page.selectbox(key="model").value == "runs/robot"
    assert [folder.name for folder in sorted(Path("runs").iterdir())] == ["own", "robot"]


def test_a_model_that_was_saved_before_an_error_can_be_used(page, ordinary, monkeypatch):
    def fail(*_):
        raise ValueError("no memory for samples")

    monkeypatch.setattr(TuningJob, "_write", fail)
    begin_tuning(page)
    fine_tuning_slot().job.wait()
    page.run()
    assert page.error[0].value == "no memory for samples"
    page.button(key="use").click().run()
    assert page.selectbox(key="model").value == "runs/robot"


def test_a_name_that_exists_asks_before_it_replaces(page, ordinary, random_model, tokenizer):
    begin_tuning(page)
    fine_tuning_slot().job.wait()
    page.run()
    weights = Path("runs/robot/model.safetensors")
    before = weights.stat().st_mtime_ns
    first = fine_tuning_slot().job
    page.button(key="teach").click().run()
    assert "Replace it?" in page.warning[0].value
    assert not page.success  # the result of the time before is over
    assert fine_tuning_slot().job is first
    page.button(key="leave").click().run()
    assert not any("Replace it?" in warning.value for warning in page.warning)
    page.button(key="teach").click().run()
    page.button(key="replace").click().run()
    assert fine_tuning_slot().job is not first
    fine_tuning_slot().job.wait()
    assert weights.stat().st_mtime_ns > before


def test_a_folder_that_holds_something_else_is_never_replaced(page):
    Path("runs/letters").mkdir()
    Path("runs/letters/one.txt").write_text("Dear Lily", encoding="utf-8")
    for name, content in (("own", "a model"), ("letters", "something else")):
        begin_tuning(page, name)
        assert page.error[0].value == f"runs/{name} holds {content}: choose another name."
        assert fine_tuning_slot().job is None


def test_a_file_in_the_way_is_named(page):
    Path("runs/letter").write_text("Dear Lily", encoding="utf-8")
    begin_tuning(page, "letter")
    assert page.error[0].value == "runs/letter is a file: choose another name."
    assert Path("runs/letter").read_text(encoding="utf-8") == "Dear Lily"


def test_without_stories_nothing_begins(page):
    page.button(key="teach").click().run()
    assert page.error[0].value == "Give it some stories first."
    assert fine_tuning_slot().job is None


def test_a_model_of_another_shape_is_not_offered_for_replacement(page, random_model, tokenizer):
    other = random_model(n_layers=1)
    save_model_as(FINE_TUNED, Path("runs/robot"), other, tokenizer)
    begin_tuning(page)
    assert "already holds another model" in page.error[0].value
    assert not any("Replace it?" in warning.value for warning in page.warning)
    assert fine_tuning_slot().job is None


def test_the_tales_of_the_lighthouse_can_be_tried(page, monkeypatch):
    given = []
    monkeypatch.setattr(TuningJob, "work", lambda job: given.extend(job._stories))
    page.checkbox(key="tales").check().run()
    page.button(key="teach").click().run()
    fine_tuning_slot().job.wait()
    assert given == read_stories("lighthouse")


def test_too_few_stories_and_a_strange_name_are_refused_in_a_sentence(page, ordinary):
    page.text_area(key="pasted").set_value("Too short.")
    page.button(key="teach").click().run()
    assert "at least two different stories, of 50 letters or more" in page.error[0].value
    assert not Path("runs/mine").exists()
    page.checkbox(key="tales").check()
    page.text_input(key="name").set_value("../x").run()
    assert not page.error  # what was wrong may be mended by now
    page.button(key="teach").click().run()
    assert "Give it a name" in page.error[0].value
    assert not Path("x").exists()


def test_two_files_of_one_name_are_both_read_and_a_bad_one_is_named(page):
    if not hasattr(page, "file_uploader"):
        pytest.skip("this streamlit cannot upload in a test")
    one, two = practice_stories(2)
    files = [("mine.txt", one.encode(), "text/plain"), ("mine.txt", two.encode(), "text/plain")]
    page.file_uploader(key="files").set_value([*files, ("bad.json", b"{", "application/json")])
    page.run()
    assert "mine.txt: 1 story" in captions(page)
    assert "mine.txt (number 2 of this name): 1 story" in captions(page)
    assert page.error[0].value.startswith("cannot read stories from bad.json")


def test_folders_that_cannot_be_loaded_are_listed_with_the_reason(page):
    Path("runs/own/config.json").write_text("{", encoding="utf-8")
    Path("runs/empty").mkdir()
    page.run()
    assert not page.exception
    assert page.selectbox(key="model").options == ["the bundled model"]
    reasons = " ".join(text.value for text in page.text)
    assert "runs/own: The model in runs/own is damaged" in reasons
    assert "runs/empty: There is no model in it" in reasons
