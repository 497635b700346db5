import warnings

import pytest

from slm import plots

matplotlib = pytest.importorskip("matplotlib")

from matplotlib import font_manager, ft2font  # noqa: E402

from slm.plots.fonts import MONO, OTHER_SCRIPTS, SANS, with_fallbacks  # noqa: E402
from slm.plots.text import columns, drawable, flow  # noqa: E402

SCRIPTS = {"Chinese": "小猫", "Japanese": "いぬ", "Hindi": "लड़का", "Arabic": "كان", "Greek": "γάτα"}


def installed_glyphs(font):
    """The characters of all fonts that may draw a text, as matplotlib itself finds them."""
    names = {SANS, *OTHER_SCRIPTS} & set(font_manager.get_font_names())
    files = [font_manager.findfont(name) for name in names | {font}]
    return {code for file in files for code in ft2font.FT2Font(file).get_charmap()}


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_a_script_is_drawn_where_a_font_for_it_is_installed_and_else_as_boxes(text):
    known = installed_glyphs(SANS)
    wanted = "".join(character if ord(character) in known else "□" for character in text)
    assert drawable(text) == wanted


def test_the_first_font_is_always_the_one_asked_for():
    assert with_fallbacks(MONO)[0] == MONO
    assert set(with_fallbacks(MONO)[1:]) <= {SANS, *OTHER_SCRIPTS}


def test_chinese_characters_take_two_columns_each():
    assert columns("小猫 a") == 6
    rows = [(row, column) for row, column, _ in flow(["aa", "bb", "cc"], 4)]
    assert rows == [(0, 0), (0, 2), (1, 0)]


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_no_script_makes_matplotlib_complain(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.tokens({text: list(text)})._repr_png_()
        plots.bars({text: 1.0}, title="Bars")._repr_png_()
        plots.story_strip([("step 0", text)])._repr_png_()
