"""The story-teller in one file in a real browser, opened from the disk with the network cut. It is
left out where there is no Chromium with its driver."""

import random
import shutil
import sys
import time
import unicodedata

import pytest
import torch

import slm
from slm.analysis.token_probabilities import token_probabilities
from slm.export.html import export_html
from slm.generation.decoder import IncrementalDecoder
from slm.generation.sampling import next_token_probabilities
from slm.generation.text_generation import generate_ids
from tests.pretrained import publish, smollm_tokenizer

selenium = pytest.importorskip("selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("there is no chromium with chromedriver", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

WAIT = 300  # seconds for what takes one or two: a busy machine may need many times as long
DESK = dict(width=1280, height=900, deviceScaleFactor=1, mobile=False)
PHONE = dict(width=390, height=844, deviceScaleFactor=2, mobile=True)
PROMPTS = ["", "Once upon a time", "The dragon was afraid of", '"Where is my hat?" asked the']
SHAPES = {  # of models with random weights, and how they are quantized before the export, if so
    "one head of keys and values": (dict(n_kv_heads=1, rope_theta=300.0), None),
    "two tables, odd widths": (dict(d_model=40, d_ff=51, tie_embeddings=False), None),
    "4 bits": (dict(d_model=48, d_ff=64, n_kv_heads=2, norm_eps=1e-3), (4, 16)),
    "8 bits in groups": (dict(d_ff=64, tie_embeddings=False), (8, 8)),
}
# The page's objects are found by name. A test's code gives what it returns; it may await.
CALL = """
const done = arguments[arguments.length - 1];
(async (...given) => { %s })(...[...arguments].slice(0, -1)).then(
    (value) => done({ value }), (error) => done({ error: String(error) }));
"""
CONTINUE = """
const [ids, count] = given;
const sampling = { temperature: 0, max_new_tokens: count, seed: 0 };
const never = new AbortController().signal;
const found = [];
for await (const { id } of generateIds(storyteller.model, ids, sampling, [], never)) found.push(id);
return found;
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """One Chromium for all tests, which reaches no other computer."""
    folder = tmp_path_factory.mktemp("chromium")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--no-first-run", "--disable-background-networking", "--disable-sync",
                 "--disable-component-update", f"--user-data-dir={folder}",
                 "--host-resolver-rules=MAP * ~NOTFOUND"):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(WAIT)
    driver.set_page_load_timeout(WAIT)
    driver.execute_cdp_cmd("Network.enable", {})
    cut = dict(offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", cut)
    yield driver
    driver.quit()


class Browser:
    """The open page, and what a person does with it."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, file, screen=DESK):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.get(file.as_uri())
        self.wait(lambda: self["write"].is_enabled())

    def __getitem__(self, name):
        return self.driver.find_element(By.ID, name)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def call(self, code, *given):
        answer = self.driver.execute_async_script(CALL % code, *given)
        assert "error" not in answer, answer
        return answer.get("value")

    def wait(self, condition):
        end = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < end, self["status"].text
            time.sleep(0.05)

    def set(self, name, value):
        code = "element(given[0]).value = given[1]; showSettings();"
        self.call(code, name, value)

    def write(self, prompt):
        """Write a story to its end; its text."""
        self["prompt"].clear()
        self["prompt"].send_keys(prompt)
        self["write"].click()
        return self.finished()

    def finished(self):
        self.wait(lambda: self["write"].is_displayed())
        return self.call("return storyText();")

    def tokens(self):
        """Ids and probabilities of the story's tokens."""
        return self.call("return story.tokens.map(({ id, probability }) => [id, probability]);")


@pytest.fixture
def browser(driver):
    """A browser whose console must stay empty."""
    driver.get_log("browser")
    yield Browser(driver)
    assert driver.get_log("browser") == []


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    return export_html("stories", tmp_path_factory.mktemp("bundled") / "story.html")


@pytest.fixture(scope="module")
def quantized():
    """The bundled model as it is in the page, and its tokenizer."""
    model, tokenizer = slm.load_model("stories")
    return slm.quantize(model, 4), tokenizer


def greedy(model, ids, count):
    sampling = slm.SamplingConfig(temperature=0, max_new_tokens=count)
    return [new for [new] in generate_ids(IncrementalDecoder(model), [ids], sampling, end_ids=())]


# The same numbers as in Python


@pytest.mark.parametrize("prompt", PROMPTS)
def test_it_writes_the_same_hundred_tokens_as_the_quantized_model(
    prompt, browser, bundled, quantized
):
    model, tokenizer = quantized
    ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    browser.open(bundled)
    assert browser.call(CONTINUE, ids, 100) == greedy(model, ids, 100)


@pytest.mark.parametrize("shape", SHAPES)
def test_models_of_other_shapes_write_the_same_beyond_their_context(
    shape, browser, random_model, tokenizer, tmp_path
):
    fields, bits_and_group = SHAPES[shape]
    model = random_model(**fields)
    quantized = slm.quantize(model, *(bits_and_group or (8,)))
    saved = model if bits_and_group is None else quantized
    browser.open(export_html(slm.save_model(tmp_path / "m", saved, tokenizer), tmp_path / "a.html"))
    for ids in ([tokenizer.bos_id], list(range(50))):  # a context has 32 tokens
        assert browser.call(CONTINUE, ids, 100) == greedy(quantized, ids, 100)
    code = """
        const cache = new KVCache(storyteller.model.config);
        return given[0].map((id) => [...storyteller.model.forward(id, cache)]);
    """
    ids = list(range(7, 39))
    logits = torch.tensor(browser.call(code, ids))
    with torch.no_grad():
        expected = quantized(torch.tensor([ids]))[0]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_next_token_has_the_same_probabilities(browser, bundled):
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)) * 3
    browser.open(bundled)
    for settings in (dict(temperature=0.8, min_p=0.05), dict(temperature=1.3, min_p=0),
                     dict(temperature=0)):  # fmt: skip
        code = "return [...nextTokenProbabilities(Float32Array.from(given[0]), given[1])];"
        found = torch.tensor([browser.call(code, logits[0].tolist(), settings)]).float()
        expected = next_token_probabilities(logits, slm.SamplingConfig(**settings))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_tokens_are_drawn_as_often_as_they_are_probable(browser, bundled):
    code = """
        const probabilities = [0.5, 0, 0.3, 0.15, 0.05];
        const counts = [0, 0, 0, 0, 0];
        for (let seed = 0; seed < 200; seed++) {
            const random = newGenerator(seed);
            for (let i = 0; i < 50; i++) counts[draw(probabilities, random)] += 1;
        }
        const first = new Set();
        for (let seed = 0; seed < 200; seed++) first.add(newGenerator(seed)());
        return [counts, first.size];
    """
    browser.open(bundled)
    counts, different = browser.call(code)
    assert counts == pytest.approx([5000, 0, 3000, 1500, 500], abs=200)  # 4 standard deviations
    assert different == 200


# The same ids as in Python


def odd_strings(count):
    """Texts of every kind, made by chance: all characters that Unicode had in its version 14."""
    chance = random.Random(0)
    assigned = [chr(i) for i in range(sys.maxunicode) if unicodedata.category(chr(i)) not in
                ("Cn", "Cs")]  # fmt: skip
    spaces = [
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "\u00a0",
        "\u2003",
        "\u0085",
        "\ufeff",
        "\u200b",
    ]
    signs = [
        "'s",
        "'ll",
        "'S",
        "’s",
        "'",
        '"',
        "...",
        "!?",
        "<|endoftext|>",
        "</s>",
        "\\",
        "12",
        "3.5",
    ]
    signs += [
        "½",
        "²",
        "٣",
        "Ⅷ",
        "e\u0301",
        "\u0301",
        "ﬁ",
        "ß",
        "İ",
        "👩‍👩‍👧",
        "🇩🇪",
        "日本語",
        "한국어",
        "नमस्ते",
    ]
    words = ["Once", "upon", "a", "time", "don't", "I'm", "they'll", "naïve", "x1y2", "ÅNGSTRÖM"]
    kinds = [assigned, spaces, signs, words, [chr(i) for i in range(256)]]
    texts = ["", " ", "a" * 300, " " * 50, "\n" * 50, "1234567890" * 5]
    while len(texts) < count:
        mixture = chance.sample(kinds, chance.randint(1, len(kinds)))
        length = chance.randint(1, 20)
        texts.append("".join(chance.choice(chance.choice(mixture)) for _ in range(length)))
    return texts


def test_two_thousand_odd_strings_have_the_same_ids(browser, bundled, quantized):
    _, tokenizer = quantized
    texts = odd_strings(2000)
    browser.open(bundled)
    found = browser.call("return given[0].map(storyteller.encode);", texts)
    for text, ids in zip(texts, found, strict=True):
        assert ids == tokenizer.encode(text), repr(text)
    assert browser.call("return given[0].map(storyteller.decode);", found) == texts


def test_a_tokenizer_of_the_library_has_the_same_ids(browser, tmp_path):
    folder = publish(tmp_path / "model", smollm_tokenizer())
    _, tokenizer = slm.load_model(folder)
    texts = [*odd_strings(500), "<|im_start|> <repo_name> 12345 ٣٤"]
    browser.open(export_html(folder, tmp_path / "story.html"))
    found = browser.call("return given[0].map(storyteller.encode);", texts)
    for text, ids in zip(texts, found, strict=True):
        assert ids == tokenizer.encode(text), repr(text)


def test_ids_that_make_no_whole_characters_are_decoded_as_in_python(browser, bundled, quantized):
    _, tokenizer = quantized
    chance = random.Random(1)
    rows = [chance.choices(range(256), k=12) for _ in range(200)]  # these are the single bytes
    browser.open(bundled)
    found = browser.call("return given[0].map(storyteller.decode);", rows)
    assert found == [tokenizer.decode(row) for row in rows]
    code = "return given[0].map((id) => storyteller.tokenizer.piece(id));"
    assert browser.call(code, list(range(300))) == tokenizer.pieces(range(300))


# What a person does


def test_a_story_is_written_and_a_word_shows_what_else_might_have_come(browser, bundled, quantized):
    model, tokenizer = quantized
    browser.open(bundled)
    browser.set("temperature", 0)
    text = browser.write("Once upon a time")
    assert text == slm.generate(model, tokenizer, "Once upon a time", temperature=0)
    assert browser["status"].text.startswith("The end. ")
    assert not browser["stop"].is_displayed()
    expected = token_probabilities(model, tokenizer, text)[4:]  # after those of the prompt
    for number in (3, 40):
        browser.all(".token")[number].click()
        shown = [line.text.split("\n") for line in browser.all(".alternative")]
        assert len(shown) == 6
        names = [piece.strip() for piece, _ in expected[number].likeliest[:6]]
        assert [name.strip("“”") for name, _ in shown] == names
        percent = 100 * expected[number].probability
        assert float(shown[0][1].strip("% ")) == pytest.approx(percent, abs=0.6)
        assert browser["why-title"].text.startswith(f"“{names[0]}” had a chance of")
    probabilities = [probability for _, probability in browser.tokens()[:-1]]
    found = [word.probability for word in expected]
    assert probabilities == pytest.approx(found, abs=1e-3)
    unsure = browser.call("return getComputedStyle(tokenElements()[3].lastChild).backgroundColor;")
    assert unsure.startswith("rgba(217, 119, 6, ")


def test_another_word_can_be_taken_and_the_story_goes_on_from_there(browser, bundled):
    browser.open(bundled)
    browser.set("temperature", 0)
    first = browser.write("Once upon a time")
    before = browser.tokens()
    number = next(i for i, (_, probability) in enumerate(before) if i > 5 and probability < 0.5)
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


def test_it_is_stopped_at_once_and_answers_while_it_writes(browser, bundled):
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
    browser.open(bundled)
    browser.set("temperature", 0)
    seen, written, in_all = browser.call(code)
    assert seen == [True, True, True]
    assert in_all <= written + 1  # the one that it was at
    assert browser["status"].text.startswith("Stopped. ")
    assert browser["write"].is_displayed() and not browser["stop"].is_displayed()
    assert len(browser.all(".token")) == in_all


def test_a_story_ends_at_the_length_of_the_dial(browser, bundled):
    browser.open(bundled)
    browser.set("length", 20)
    browser.write("Once")
    assert len(browser.tokens()) == 20
    assert browser["status"].text.startswith("Cut off at the length")


def test_the_same_seed_writes_the_same_story_again(browser, bundled):
    browser.open(bundled)
    browser.set("length", 60)
    stories = []
    for seed in (5, 5, 6, ""):
        browser.set("seed", seed)
        stories.append(browser.write("One day"))
    assert stories[0] == stories[1]
    assert len({*stories}) == 3
    drawn = browser["status"].text.rpartition("seed ")[2].strip(".")
    browser.set("seed", drawn)
    assert browser.write("One day") == stories[3]


def test_the_story_is_saved_as_text(browser, driver, bundled, tmp_path):
    where = dict(behavior="allow", downloadPath=str(tmp_path))
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", where)
    browser.open(bundled)
    browser.set("length", 40)
    story = browser.write("Ein Märchen 😀:")
    browser["save"].click()
    file = tmp_path / "story.txt"
    browser.wait(file.exists)
    browser.wait(lambda: file.stat().st_size > 0)
    assert file.read_text(encoding="utf-8") == story + "\n"


def test_what_looks_like_html_in_a_story_stays_text(browser, bundled):
    prompt = "<img src=x onerror=alert(1)><b>bold</b> &amp; </script>"
    browser.open(bundled)
    browser.set("length", 20)
    assert browser.write(prompt).startswith(prompt)
    assert not browser.all("#story img")


def test_the_keyboard_is_enough(browser, driver, bundled):
    browser.open(bundled)
    browser.set("length", 40)
    browser.set("seed", 1)

    def press(*keys):
        actions = webdriver.ActionChains(driver)
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
def test_the_story_is_in_view_and_nothing_is_wider_than_the_screen(screen, browser, bundled):
    browser.open(bundled, screen)
    browser.set("length", 200)
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
def test_text_is_legible_in_light_and_dark(scheme, browser, driver, bundled):
    media = dict(features=[dict(name="prefers-color-scheme", value=scheme)])
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.open(bundled)
    browser.set("length", 20)
    browser.write("Once")
    code = """
        const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
        const colour = (name) => rgb(getComputedStyle(element(name)).color);
        const page = rgb(getComputedStyle(document.body).backgroundColor);
        return [page, ...["story", "status", "about", "prompt"].map(colour)];
    """
    page, *texts = [luminance(colour) for colour in browser.call(code)]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=[]))
    assert (page < 0.1) == (scheme == "dark")
    for text in texts:
        dark, light = sorted((page, text))
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2, level AA


def luminance(colour):
    """Relative luminance by WCAG 2."""
    shares = [value / 255 for value in colour[:3]]
    red, green, blue = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
