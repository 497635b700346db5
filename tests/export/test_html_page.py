"""The story-teller in one file in a real browser: what a person does with it."""

import pytest

import slm
from slm.analysis.token_probabilities import token_probabilities
from slm.export.html import export_html
from slm.page.explanation import shown_piece

pytest.importorskip("selenium")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.export.storyteller_page import DESK, PHONE

# Writing


def test_a_story_is_written_to_its_end(browser, bundled_page, quantized):
    browser.open(bundled_page)
    browser.set("temperature", 0)
    text = browser.write("Once upon a time")
    assert text == slm.generate(*quantized, "Once upon a time", temperature=0)
    words = len(text.split())
    assert browser["ending"].text.startswith(f"The end. {words} words, seed ")
    assert not browser["stop"].is_displayed()


def test_it_is_stopped_at_once_and_answers_while_it_writes(browser, bundled_page):
    code = """
        element("form").requestSubmit();
        const wait = () => new Promise((resolve) => setTimeout(resolve));
        while (story.tokens.length < 3) await wait();
        const seen = [writing !== null, element("stop").offsetWidth > 0];
        element("settings-button").click();
        seen.push(element("settings-panel").offsetHeight > 0);
        element("stop").click();
        const written = story.tokens.length;
        while (writing) await wait();
        return [seen, written, story.tokens.length];
    """
    browser.open(bundled_page)
    browser.set("temperature", 0)
    seen, written, in_all = browser.call(code)
    assert seen == [True, True, True]
    assert in_all <= written + 1  # the one that it was at
    assert browser["ending"].text.startswith("Stopped. ")
    assert browser["write"].is_displayed() and not browser["stop"].is_displayed()
    assert len(browser.all(".token")) == in_all


def test_a_story_ends_at_the_length_of_the_dial(browser, bundled_page):
    browser.open(bundled_page)
    browser.set("length", 20)
    browser.write("Once")
    assert len(browser.tokens()) == 20
    assert browser["ending"].text.startswith("Cut off at the length that the settings allow. ")


def test_the_same_seed_writes_the_same_story_again(browser, bundled_page):
    browser.open(bundled_page)
    browser.set("length", 60)
    stories = []
    for seed in (5, 5, 6, ""):
        browser.set("seed", seed)
        stories.append(browser.write("One day"))
    assert stories[0] == stories[1]
    assert len({*stories}) == 3
    drawn = browser["ending"].text.rpartition("seed ")[2].strip(".")
    browser.set("seed", drawn)
    assert browser.write("One day") == stories[3]


def test_the_settings_of_a_story_are_set_again_by_one_button(browser, bundled_page):
    browser.open(bundled_page)
    browser.set("length", 60)
    browser.set("temperature", 1.2)
    story = browser.write("One day, a cat")
    browser.set("length", 40)
    browser.set("temperature", 0)
    browser.set("prompt", "The")
    browser["again"].click()
    assert browser["seed"].is_displayed()
    browser["write"].click()
    assert browser.finished() == story


@pytest.mark.parametrize(
    ("typed", "seed", "sentence"),
    [
        ("5000000000", "4294967295", "A seed is a whole number from 0 to 4,294,967,295"),
        ("-3", "0", "A seed is a whole number from 0 to 4,294,967,295"),
        ("2.6", "3", "A seed is a whole number from 0 to 4,294,967,295"),
        ("1e", "", "That is not a number"),
        ("4294967295", "4294967295", "The same number writes the same story again"),
        ("", "", "The same number writes the same story again"),
    ],
)
def test_what_is_no_seed_is_mended_and_a_sentence_says_so(
    typed, seed, sentence, browser, bundled_page
):
    browser.open(bundled_page)
    browser.set("length", 20)
    browser["settings-button"].click()
    browser["seed"].send_keys(typed)
    browser.write("Once")
    assert browser["seed"].get_attribute("value") == seed
    assert browser["seed-hint"].text.startswith(sentence)
    assert browser["ending"].text.rstrip(".").endswith(f"seed {seed}" if seed else "")


# Why a word came


def test_a_word_shows_what_else_might_have_come(browser, bundled_page, quantized):
    model, tokenizer = quantized
    browser.open(bundled_page)
    browser.set("temperature", 0)
    text = browser.write("Once upon a time")
    expected = token_probabilities(model, tokenizer, text)[4:]  # after those of the prompt
    for number in (3, 40):
        browser.all(".token")[number].click()
        shown = [line.text.split("\n") for line in browser.all(".alternative")]
        before = "Once upon a time" + "".join(token.piece for token in expected[:number])
        names = [shown_piece(piece, before) for piece, _ in expected[number].likeliest[:6]]
        assert [name.strip("“”") for name, _ in shown] == names
        for (_, chance), (_, probability) in zip(shown, expected[number].likeliest):
            given = float(chance.removeprefix("under ").removeprefix("over ").rstrip("%"))
            assert given == pytest.approx(100 * probability, abs=1.1)
        sentence = browser["why-title"].text
        assert sentence.startswith(f"“{names[0]}” ") and " had a chance of " in sentence
    probabilities = [probability for _, probability in browser.tokens()[:-1]]
    found = [word.probability for word in expected]
    assert probabilities == pytest.approx(found, abs=1e-3)


def test_the_bluer_a_word_the_surer_the_model_was(browser, bundled_page):
    browser.open(bundled_page)
    browser.set("length", 40)
    browser.write("Once")
    code = """
        return tokenElements().map((span) =>
            getComputedStyle(span.lastChild).backgroundColor.match(/[\\d.]+/g).map(Number));
    """
    for (_, probability), colour in zip(browser.tokens(), browser.call(code), strict=True):
        assert colour[:3] == [28, 131, 225]
        strength = colour[3] if len(colour) == 4 else 1
        assert strength == pytest.approx(0.4 * probability, abs=0.01)
    browser["colours"].click()
    assert {tuple(colour) for colour in browser.call(code)} == {(0, 0, 0, 0)}


def test_a_part_of_a_word_is_not_shown_as_a_word(browser, bundled_page):
    browser.open(bundled_page)
    name = "return tokenName(storyteller.encode(given[0])[0], given[1]);"
    assert browser.call(name, " dog", "The") == "“dog”"
    assert browser.call(name, "ally", "It was especi") == "“…ally”"
    assert browser.call(name, "'s", "The dog") == "“…'s”"
    assert browser.call(name, "!", "The dog") == "“!”"
    assert browser.call(name, "d", "“") == "“d”"
    assert browser.call(name, "\n", "The dog") == "(a new line)"
    assert browser.call(name, "😀", "The dog") == "(half a character)"
    browser.set("length", 20)
    browser.set("seed", 1)
    story = browser.write("The robot was especi")
    word = story.removeprefix("The robot was ").split()[0].strip('.,!?"')
    browser.all(".token")[0].click()
    sentence = browser["why-title"].text
    assert sentence.startswith("“…") and f" in “{word}” had a chance of " in sentence
    assert browser.all(".alternative .name")[0].text.startswith("“…")
    assert browser["why-parts"].text == "“…” stands for the beginning of the word."


def test_another_word_can_be_taken_and_the_story_goes_on_from_there(browser, bundled_page):
    browser.open(bundled_page)
    browser.set("temperature", 0)
    first = browser.write("Once upon a time")
    before = browser.tokens()
    number = unsure_token(before)
    browser.all(".token")[number].click()
    likeliest = browser.call("return story.tokens[given[0]].likeliest;", number)
    browser.all(".alternative")[1].click()
    second = browser.finished()
    after = browser.tokens()
    assert after[:number] == before[:number]
    assert after[number] == [likeliest[1]["id"], likeliest[1]["probability"]]
    assert len(after) > number + 1
    assert second != first
    assert not browser["why"].is_displayed()
    assert second == browser.call(
        "return element('prompt').value + storyteller.decode(given[0]);",
        [id for id, _ in after if id != 4095],
    )
    assert browser["ending"].text.endswith(", 1 chosen by you.")
    assert not browser["again"].is_displayed()  # no seed writes this one


def unsure_token(tokens):
    """The number of a token in whose place another was nearly as probable."""
    return next(i for i, (_, probability) in enumerate(tokens) if i > 5 and probability < 0.5)


# Nothing is lost


def take_other(browser, number):
    """Take another word in the place of a token; the story that comes of it."""
    browser.all(".token")[number].click()
    browser.all(".alternative")[1].click()
    return browser.finished()


def test_the_stories_before_can_be_seen_again(browser, bundled_page):
    browser.open(bundled_page)
    browser.set("length", 60)
    browser.set("seed", 1)
    assert not browser["back"].is_displayed()
    first = browser.write("Once upon a time")
    number = unsure_token(browser.tokens())
    second = take_other(browser, number)
    third = take_other(browser, number - 2)
    assert browser["ending"].text.endswith(", 1 chosen by you.")  # the other one is gone
    fourth = browser.write("The dragon")
    stories = [first, second, third, fourth]
    assert len({*stories}) == 4
    shown = [fourth]
    while browser["back"].is_displayed():
        browser["back"].click()
        shown.append(browser.call("return storyText();"))
    assert shown == stories[::-1]
    browser["again"].click()
    assert browser["status"].text.startswith("Write now gives this story again.")
    shown = [first]
    while browser["forward"].is_displayed():
        browser["forward"].click()
        shown.append(browser.call("return storyText();"))
    assert shown == stories
    assert browser["status"].text == "Click a word to see why it came."
    browser.all(".token")[2].click()
    assert browser["why"].is_displayed()
    browser["why-close"].click()


def test_a_word_taken_in_an_earlier_story_loses_none_of_the_later_ones(browser, bundled_page):
    browser.open(bundled_page)
    browser.set("length", 60)
    first = browser.write("Once upon a time")
    number = unsure_token(browser.tokens())
    later = browser.write("The dragon")
    browser["back"].click()
    changed = take_other(browser, number)
    assert changed != first
    browser["back"].click()
    assert browser.call("return storyText();") == first
    browser["forward"].click()
    browser["forward"].click()
    assert browser.call("return storyText();") == later


def test_the_history_has_twenty_stories(browser, bundled_page):
    browser.open(bundled_page)
    browser.set("length", 20)
    code = """
        for (let i = 1; i <= 22; i++) {
            element("prompt").value = `Story ${i}:`;
            element("form").requestSubmit();
            while (writing) await new Promise((resolve) => setTimeout(resolve));
        }
        return [storyNumber, ...stories.map((story) => story.prompt)];
    """
    assert browser.call(code) == [19, *(f"Story {i}:" for i in range(3, 23))]


def test_the_story_in_which_a_word_is_taken_stays_also_where_it_is_the_oldest(
    browser, bundled_page
):
    browser.open(bundled_page)
    browser.set("length", 20)
    code = """
        for (let i = 1; i <= 20; i++) {
            element("prompt").value = `Story ${i}:`;
            element("form").requestSubmit();
            while (writing) await new Promise((resolve) => setTimeout(resolve));
        }
        while (storyNumber > 0) showNeighbour(-1);
        return storyText();
    """
    oldest = browser.call(code)
    take_other(browser, 5)
    assert browser.call("return [stories.length, storyNumber];") == [20, 1]
    assert browser.call("return stories[19].prompt;") == "Story 20:"
    browser["back"].click()
    assert browser.call("return storyText();") == oldest


def test_a_page_that_is_opened_again_is_as_it_was(browser, bundled_page):
    browser.open(bundled_page)
    assert "This browser stores your last 20 stories" in browser["about"].text
    browser["settings-button"].click()
    for name, keys in (("temperature", Keys.ARROW_LEFT * 3), ("length", Keys.ARROW_LEFT * 2)):
        browser[name].send_keys(keys)
    browser["seed"].send_keys("7")
    first = browser.write("A <b>cat</b> 😀")
    second = browser.write("The dragon")
    browser["colours"].click()
    browser["back"].click()
    browser["prompt"].send_keys("!" + Keys.TAB)
    names = ("prompt", "temperature", "length", "seed")
    values = [browser[name].get_attribute("value") for name in names]
    tokens = browser.tokens()
    browser.all(".token")[3].click()
    why = browser["why"].text

    browser.open(bundled_page)
    assert browser.call("return storyText();") == first
    assert browser["ending"].text.endswith(", seed 7.")
    assert [browser[name].get_attribute("value") for name in names] == values
    assert not browser["colours"].is_selected()
    restored = browser.tokens()
    assert [id for id, _ in restored] == [id for id, _ in tokens]
    assert [p for _, p in restored] == pytest.approx([p for _, p in tokens], abs=1e-4)
    browser.all(".token")[3].click()
    assert browser["why"].text == why
    browser["why-close"].click()
    browser["forward"].click()
    assert browser.call("return storyText();") == second


def test_a_story_that_is_being_written_when_the_page_is_closed_is_there_again(
    browser, bundled_page
):
    browser.open(bundled_page)
    code = """
        element("length").value = 1000;
        storyteller.tokenizer.endIds = []; // it goes on and on
        element("form").requestSubmit();
        while (story.tokens.length < 5) await new Promise((resolve) => setTimeout(resolve));
        return storyText();
    """
    beginning = browser.call(code)
    browser.reload()
    assert browser.call("return storyText();").startswith(beginning)
    assert browser["ending"].text.startswith("Broken off when the page was closed. ")


def test_a_prompt_that_is_being_typed_when_the_page_is_closed_is_there_again(browser, bundled_page):
    browser.open(bundled_page)
    browser["prompt"].send_keys(" in a land")
    browser.reload()
    assert browser["prompt"].get_attribute("value") == "Once upon a time in a land"


def test_stories_are_deleted_after_a_question(browser, driver, bundled_page):
    browser.open(bundled_page)
    browser.set("length", 20)
    story = browser.write("Once")
    browser["settings-button"].click()
    browser["delete"].click()
    driver.switch_to.alert.dismiss()
    assert browser.call("return storyText();") == story
    browser["delete"].click()
    driver.switch_to.alert.accept()
    assert browser.call("return storyText();") == ""
    browser.reload()
    assert browser.call("return [storyText(), stories];") == ["", []]
    assert not browser["below"].is_displayed()


def test_another_model_does_not_see_the_stories(
    browser, bundled_page, random_model, tokenizer, tmp_path
):
    browser.open(bundled_page)
    browser.set("length", 20)
    story = browser.write("Once")
    folder = slm.save_model(tmp_path / "stories", random_model(), tokenizer)
    browser.open(export_html(folder, tmp_path / "story.html"))
    assert browser.call("return [storyText(), stories];") == ["", []]
    browser.open(bundled_page)
    assert browser.call("return storyText();") == story


REFUSED = """
    Object.defineProperty(window, "localStorage", {
        get() { throw new DOMException("The document is sandboxed", "SecurityError"); },
    });
"""
FULL = """
    const { setItem } = Storage.prototype;
    Storage.prototype.setItem = function (key, value) {
        if (value.length > %d) throw new DOMException("It is full", "QuotaExceededError");
        setItem.call(this, key, value);
    };
"""


@pytest.mark.parametrize("code", [REFUSED, FULL % 0], ids=["refused", "full"])
def test_a_browser_that_stores_nothing_writes_stories_and_the_page_says_so(
    code, browser, bundled_page
):
    with browser.changed(code):
        browser.open(bundled_page)
        assert "This browser stores no stories" in browser["about"].text
        browser.set("length", 20)
        first = browser.write("Once")
        browser.write("The dragon")
        browser["back"].click()
        assert browser.call("return storyText();") == first
        browser.reload()
        assert browser.call("return [storyText(), stories];") == ["", []]


def test_the_oldest_stories_are_left_out_where_there_is_no_room(browser, bundled_page):
    with browser.changed(FULL % 15_000):  # characters: enough for one or two of these
        browser.open(bundled_page)
        browser.set("length", 40)
        for prompt in ("Once", "The dragon", "A cat"):
            latest = browser.write(prompt)
        about = browser["about"].text
        browser.reload()
        assert browser.call("return storyText();") == latest
        stored = browser.call("return stories.length;")
        assert 0 < stored < 3
        assert f"This browser has room for only {stored} of these 3 stories" in about


def test_a_storage_that_is_full_of_other_things_is_said_to_be(browser, bundled_page):
    with browser.changed(FULL % 500):  # characters: enough for the settings alone
        browser.open(bundled_page)
        assert "This browser stores your last 20 stories" in browser["about"].text
        browser.set("length", 20)
        browser.write("Once")
        assert "This browser stores no stories of this page" in browser["about"].text


@pytest.mark.parametrize(
    "content",
    ["{", "null", "[]", '{"stories": [{}], "fields": [], "storyNumber": 5}'],
)
def test_what_is_stored_and_cannot_be_read_does_no_harm(content, browser, bundled_page):
    browser.open(bundled_page)
    browser.call("localStorage.setItem(storageKey(), given[0]);", content)
    browser.reload()
    browser.set("length", 20)
    story = browser.write("Once")
    browser.reload()
    assert browser.call("return storyText();") == story


# Saving


def test_the_story_is_saved_as_text_under_its_title_and_first_words(
    browser, driver, bundled_page, tmp_path
):
    where = dict(behavior="allow", downloadPath=str(tmp_path))
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", where)
    browser.open(bundled_page)
    browser.set("length", 40)
    story = browser.write("Ein Märchen 😀: Es war ein/mal eine")
    browser["save"].click()
    file = tmp_path / "A story-teller - Ein Märchen Es war ein mal.txt"
    browser.wait(file.exists)
    browser.wait(lambda: file.stat().st_size > 0)
    assert file.read_text(encoding="utf-8") == story + "\n"


@pytest.mark.parametrize(
    ("title", "text", "name"),
    [
        ("A: <b>?", "../../etc/passwd", "A b - etc passwd.txt"),
        ("A", "x" * 300, f"A - {'x' * 40}.txt"),
        ("?", "", "story.txt"),
        ("お話", "昔々 あるところに", "お話 - 昔々 あるところに.txt"),
        ("A", "Once upon a time, there was a cat", "A - Once upon a time there was.txt"),
    ],
)
def test_the_name_of_a_saved_file_suits_every_system(title, text, name, browser, bundled_page):
    browser.open(bundled_page)
    code = """
        [document.title, element("story").textContent] = given;
        return storyFileName();
    """
    assert browser.call(code, title, text) == name


# Keyboard, screens and colours


def test_what_looks_like_html_in_a_story_stays_text(browser, bundled_page):
    prompt = "<img src=x onerror=alert(1)><b>bold</b> &amp; </script>"
    browser.open(bundled_page)
    browser.set("length", 20)
    assert browser.write(prompt).startswith(prompt)
    assert not browser.all("#story img")


def test_the_keyboard_is_enough(browser, driver, bundled_page):
    browser.open(bundled_page)
    browser.set("length", 40)
    browser.set("seed", 1)

    def press(*keys):
        actions = ActionChains(driver)
        for key in keys:
            actions.send_keys(key)
        actions.perform()

    focused = lambda: driver.switch_to.active_element  # noqa: E731
    browser["prompt"].send_keys(Keys.ENTER)
    browser.finished()
    for _ in range(10):
        press(Keys.TAB)
        if focused().get_attribute("class") == "token":
            break
    press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ENTER)
    assert browser["why"].is_displayed()
    assert browser.all(".chosen")[0] == browser.all(".token")[2]
    assert focused().get_attribute("class") == "alternative"
    press(Keys.ESCAPE)
    assert not browser["why"].is_displayed()
    assert focused() == browser.all(".token")[2]


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["desk", "phone"])
def test_the_story_is_in_view_and_nothing_is_wider_than_the_screen(screen, browser, bundled_page):
    browser.open(bundled_page, screen)
    browser.set("length", 200)
    browser.set("seed", 1)  # a token to be clicked must be a word: a new line has no width
    browser.write("The dragon " + "was so very, very afraid " * 4)
    story_top = browser.call("return element('story').getBoundingClientRect().top;")
    assert story_top < screen["height"] / 4
    browser["settings-button"].click()
    browser.all(".token")[5].click()
    wide, width, panel_bottom = browser.call("""
        const panel = element("why").getBoundingClientRect();
        const root = document.documentElement;
        return [root.scrollWidth, root.clientWidth, panel.bottom];
    """)
    assert wide <= width <= screen["width"]
    assert panel_bottom <= screen["height"] + 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_light_and_dark(scheme, browser, driver, bundled_page):
    media = dict(features=[dict(name="prefers-color-scheme", value=scheme)])
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.open(bundled_page)
    browser.set("length", 20)
    browser.write("Once")
    code = """
        const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
        const colour = (name) => rgb(getComputedStyle(element(name)).color);
        const page = rgb(getComputedStyle(document.body).backgroundColor);
        const word = element("story").querySelector(".word");
        word.style.setProperty("--chance", 1); // the strongest colour
        const blue = rgb(getComputedStyle(word).backgroundColor);
        return [page, blue, ...["story", "status", "ending", "about", "prompt"].map(colour)];
    """
    page, blue, story, *others = browser.call(code)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=[]))
    assert (luminance(page) < 0.1) == (scheme == "dark")
    for text in (story, *others):
        assert contrast(text, page) >= 4.5  # WCAG 2, level AA
    behind_word = [blue[3] * colour + (1 - blue[3]) * under for colour, under in zip(blue, page)]
    assert contrast(story, behind_word) >= 4.5


def contrast(colour, other):
    dark, light = sorted((luminance(colour), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    """Relative luminance by WCAG 2."""
    shares = [value / 255 for value in colour[:3]]
    red, green, blue = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
