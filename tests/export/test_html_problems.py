"""The story-teller in one file in a real browser: what the page says where it cannot write."""

import re

import pytest

NO_MEMORY = """
    Float32Array = new Proxy(Float32Array, {
        construct() { throw new RangeError("Array buffer allocation failed"); },
    });
"""
DAMAGED = r"^This file is damaged: .+\. Ask for it once more\.$"


@pytest.fixture
def source(bundled_page):
    return bundled_page.read_text(encoding="utf-8")


@pytest.fixture
def changed_file(tmp_path):
    """Write a page that is not as it was exported."""

    def write(source):
        file = tmp_path / "changed.html"
        file.write_text(source, encoding="utf-8")
        return file

    return write


@pytest.mark.parametrize(
    "feature",
    [
        "window.DecompressionStream",
        "DataView.prototype.getBigUint64",
        "Element.prototype.replaceChildren",
        "Array.prototype.at",
    ],
)
def test_a_browser_that_is_too_old_learns_what_it_lacks(feature, browser, bundled_page):
    with browser.changed(f"delete {feature};"):
        problem = browser.problem_of(bundled_page)
    name = feature.replace(".prototype", "").removeprefix("window.")
    assert problem.startswith(f"This browser is too old to write stories: it has no {name}. ")
    assert not browser["write"].is_enabled()
    assert not browser["settings-button"].is_displayed()  # it could do nothing


@pytest.mark.parametrize("last_part", ["weights.js", "page.js", "settings", "tokenizer", "weights"])
def test_a_file_that_breaks_off_says_that_its_end_is_missing(
    last_part, browser, source, changed_file
):
    start = source.index(f'id="{last_part}"')
    middle = (start + source.index("</script>", start)) // 2
    problem = browser.problem_of(changed_file(source[:middle]))
    assert problem.startswith("The end of this file is missing")
    assert not browser["write"].is_enabled()


def script_ids(source):
    return re.findall(r'<script[^>]* id="([^"]+)"', source)


def test_each_part_that_is_missing_is_named(browser, source, changed_file):
    ids = script_ids(source)
    assert len(ids) >= 12
    for id in ids:
        if id == "startup.js":
            continue
        start = source.index("<script", source.rindex(">", 0, source.index(f'id="{id}"')))
        end = source.index("</script>", start) + len("</script>")
        problem = browser.problem_of(changed_file(source[:start] + source[end:]))
        assert problem == f"This file is damaged: its part “{id}” is missing. Ask for it once more."


def test_where_no_script_runs_the_page_says_so(browser, source, changed_file):
    without = re.sub(r"<script.*?</script>", "", source, flags=re.DOTALL)
    assert "none runs here" in browser.problem_of(changed_file(without))


def change_weights(source, change):
    """The page with other letters in place of its weights."""
    start = source.index(">", source.index('id="weights"')) + 1
    end = source.index("</script>", start)
    return source[:start] + change(source[start:end]) + source[end:]


@pytest.mark.parametrize(
    "change",
    [
        lambda letters: "",
        lambda letters: letters[:-1000],
        lambda letters: letters[:-5],
        lambda letters: "AAAA" + letters[4:],
        lambda letters: letters[:5000] + "*" + letters[5001:],
        lambda letters: letters[:5000] + letters[4000:5000] + letters[6000:],
    ],
    ids=["none", "shorter", "no whole letters", "beginning", "sign", "middle"],
)
def test_weights_that_have_changed_are_a_damaged_file(change, browser, source, changed_file):
    problem = browser.problem_of(changed_file(change_weights(source, change)))
    assert re.search(DAMAGED, problem) and "weights" in problem
    assert not browser["write"].is_enabled()


@pytest.mark.parametrize("part", ["settings", "tokenizer"])
def test_settings_that_cannot_be_read_are_a_damaged_file(part, browser, source, changed_file):
    start = source.index(">", source.index(f'json" id="{part}"')) + 1
    problem = browser.problem_of(changed_file(source[:start] + source[start + 20 :]))
    assert re.search(DAMAGED, problem) and f"“{part}”" in problem


def test_too_little_memory_is_said(browser, bundled_page):
    with browser.changed(NO_MEMORY):
        problem = browser.problem_of(bundled_page)
    assert problem.startswith("There is too little memory. Close other")


def test_too_little_memory_while_writing_keeps_what_is_written(browser, bundled_page):
    browser.open(bundled_page)
    code = """
        const { forward } = storyteller.model;
        storyteller.model.forward = function (id, cache) {
            if (cache.length > 20) throw new RangeError("Array buffer allocation failed");
            return forward.call(this, id, cache);
        };
    """
    browser.call(code)
    story = browser.write("Once upon a time")
    assert len(story) > len("Once upon a time")
    assert browser["status"].text.startswith("There is too little memory.")
    assert browser["ending"].text.startswith("Broken off. ")
    browser.call("delete storyteller.model.forward;")
    browser.write("Once upon a time")
    assert browser["status"].text == "Click a word to see why it came."
    browser["back"].click()
    assert browser.call("return storyText();") == story


def test_a_fault_in_a_script_is_said_on_the_page_and_in_the_console(
    browser, driver, source, changed_file
):
    for changed in (
        source.replace("function drawEnding() {", "function drawEnding() {{", 1),
        source.replace("this.selfAttn.forward(", "this.selfAttn.froward(", 1),
        source.replace("new Tokenizer(", "new Tokeniser(", 1),
    ):
        assert changed != source
        driver.get(changed_file(changed).as_uri())
        browser.call("if (!problem) element('form').requestSubmit();")
        browser.wait(lambda: browser["status"].get_attribute("class") == "problem")
        assert browser["status"].text.startswith("A script of this page has failed (")
        assert any(entry["level"] == "SEVERE" for entry in driver.get_log("browser"))
