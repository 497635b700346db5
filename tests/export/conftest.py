import pytest

import slm
from slm.export.html import export_html


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """One Chromium for all tests of the story-teller. They are left out where there is none."""
    pytest.importorskip("selenium")
    from tests.export.storyteller_page import CHROMIUM, DRIVER, start_chromium

    if not CHROMIUM or not DRIVER:
        pytest.skip("there is no chromium with chromedriver")
    driver = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver, tmp_path):
    """A browser that has stored nothing, and whose console must stay empty."""
    from tests.export.storyteller_page import Browser

    empty = tmp_path / "empty.html"
    empty.write_text("<!doctype html><title>Empty</title>", encoding="utf-8")
    driver.get(empty.as_uri())
    driver.execute_script("localStorage.clear();")
    driver.get_log("browser")
    yield Browser(driver)
    assert driver.get_log("browser") == []


@pytest.fixture(scope="session")
def bundled_page(tmp_path_factory):
    """The bundled model as a story-teller in one file."""
    return export_html("stories", tmp_path_factory.mktemp("bundled") / "story.html")


@pytest.fixture(scope="session")
def quantized():
    """The bundled model as it is in that page, and its tokenizer."""
    model, tokenizer = slm.load_model("stories")
    return slm.quantize(model, 4), tokenizer
