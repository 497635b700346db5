from pathlib import Path

import pytest

import slm

pytest.importorskip("streamlit")

from streamlit.testing.v1 import AppTest

from slm.stories.cleaning import Cleaning, Stories
from slm.stories.practice import practice_stories

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # a random model writes strange signs
APP = Path(slm.__file__).parent / "serving" / "page.py"


@pytest.fixture
def page(tmp_path, monkeypatch, random_model, tokenizer):
    """The page, in a folder with one model of its own, which is chosen."""
    monkeypatch.chdir(tmp_path)
    slm.save_model("runs/own", random_model(), tokenizer)
    page = AppTest.from_file(str(APP), default_timeout=60)
    page.session_state["model"] = "runs/own"
    page.run()
    assert not page.exception
    return page


def write(page, prompt="The cat", **knobs):
    page.text_area(key="prompt").set_value(prompt)
    for name, value in knobs.items():
        page.slider(key=f"one-{name}").set_value(value)
    page.button(key="write").click().run()
    assert not page.exception
    return page.session_state["story"]["text"]


def test_it_writes_the_story_that_the_package_writes(page):
    told = write(page, temperature=0.0, length=20)
    expected = slm.generate(
        *slm.load_model("runs/own"), "The cat", temperature=0, max_new_tokens=20
    )
    assert told == expected


def test_a_seed_writes_the_same_again(page):
    page.number_input(key="one-seed").set_value(5)
    one = write(page, length=20)
    assert write(page, length=20) == one


def test_an_idea_becomes_the_prompt(page):
    page.session_state["idea"] = "The dragon was afraid of"
    page.run()
    assert page.text_area(key="prompt").value == "The dragon was afraid of"


def test_a_story_stays_when_something_else_is_touched(page):
    told = write(page, length=30)
    page.button(key="stop").click().run()
    assert page.session_state["story"]["text"] == told


def test_two_stories_have_dials_of_their_own(page):
    for side, temperature in (("left", 0.0), ("right", 2.0)):
        page.slider(key=f"{side}-temperature").set_value(temperature)
        page.slider(key=f"{side}-length").set_value(20)
    page.button(key="write-two").click().run()
    assert not page.exception
    state = page.session_state
    assert state["story-left"]["text"] != state["story-right"]["text"]


def test_every_word_can_be_asked_about(page):
    write(page, "<b>cat</b> & $x$", length=20)
    for place in (1, 3):
        page.slider(key="word").set_value(place).run()
        assert not page.exception


def test_fine_tuning_makes_a_model_that_can_be_used(page, monkeypatch):
    texts = practice_stories(40)
    ordinary = Stories(texts[:30], texts[30:], "practice", True, Cleaning(40, 0, 0, 0, 0, 40))
    monkeypatch.setattr("slm.finetuning.loop.load_stories", lambda n: ordinary)
    page.checkbox(key="tales").check()
    page.text_input(key="name").set_value("robot")
    page.button(key="teach").click().run(timeout=120)
    assert not page.exception
    assert page.success[0].value.startswith("It has learnt")
    assert Path("runs/robot/model.safetensors").exists()
    page.button(key="use").click().run()
    assert page.selectbox(key="model").value == "runs/robot"


def test_too_few_stories_and_a_strange_name_are_told_in_a_sentence(page):
    page.text_area(key="pasted").set_value("Too short.")
    page.button(key="teach").click().run()
    assert "Too few stories" in page.error[0].value
    page.text_input(key="name").set_value("../x")
    page.button(key="teach").click().run()
    assert "Give it a name" in page.error[0].value
    assert not Path("x").exists()


def test_a_damaged_model_is_told_in_a_sentence(page):
    Path("runs/own/config.json").write_text("{", encoding="utf-8")
    Path("runs/own/model.safetensors").write_bytes(b"")
    page.run()
    assert "cannot be loaded" in page.error[0].value
