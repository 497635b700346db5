"""The page in a real browser. It is left out where there is no Chromium with its driver."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import slm
from slm.stories.practice import practice_stories

pytest.importorskip("streamlit")
selenium = pytest.importorskip("selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("there is no chromium with chromedriver", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

SLIDERS = "[data-testid=stSlider] input[type=range], [data-testid=stSlider] [role=slider]"
# Streamlit runs the page's script anew after every touch. This counts the runs that have finished.
COUNT_RUNS = """
const app = document.querySelector("[data-testid=stApp]");
window.finishedRuns = 0;
new MutationObserver(() => {
    if (app.dataset.testScriptState === "notRunning") window.finishedRuns += 1;
}).observe(app, { attributes: true, attributeFilter: ["data-test-script-state"] });
"""
WIDTHS = {"desktop": (1280, 1400), "phone": (390, 844)}


def endless(config, eot_id):
    """An untrained model that never ends a story: else one in fifty would be over after a few
    letters, and one in ten before it could be stopped. One number of every token's vector is large,
    and it alone decides against the end of text."""
    model = slm.Transformer(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 5.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[eot_id] = 0.0
        model.lm_head.weight[eot_id, 0] = -100.0
    return model


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page as `python -m slm app` serves it, in a folder of its own, with practice stories for
    ordinary ones."""
    from slm.tokenizer.training import train_tokenizer

    folder = tmp_path_factory.mktemp("page")
    tokenizer = train_tokenizer(practice_stories(100), 400)
    own = slm.ModelConfig(400, context_length=64, n_layers=2, d_model=32, tie_embeddings=False)
    slow = slm.ModelConfig(400, 512, n_layers=24, n_heads=8, d_model=512, tie_embeddings=False)
    for name, config in (("own", own), ("slow", slow)):
        slm.save_model(folder / "runs" / name, endless(config, tokenizer.eot_id), tokenizer)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"PYTHONPATH": str(Path(slm.__file__).parents[1]), "SLM_CACHE": str(folder / "cache")}
    own |= {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "slm", "app", "--headless", "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | own)
    try:
        until(lambda: answers(port) or process.poll() is not None)
        assert process.poll() is None, "the page ended before it answered"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def answers(port):
    with socket.socket() as knock:
        return knock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def browser(request, tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    width, height = WIDTHS[getattr(request, "param", "desktop")]
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--no-first-run", "--disable-background-networking", "--disable-sync",
                 "--disable-component-update", f"--user-data-dir={tmp_path / 'chromium'}",
                 f"--window-size={width},{height}"):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


def until(find, seconds=300.0):
    """What `find` gives, once it gives something. The limit is for what never comes: a busy machine
    may take many times as long as an idle one, and a test that passes does not wait for it."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = find()
        except WebDriverException:  # the element has just been drawn anew
            found = None
        if found:
            return found
        assert time.monotonic() < end, f"nothing came in {seconds:.0f} seconds"
        time.sleep(0.1)


def find(browser, selector, index=0):
    """An element, once it is there: Streamlit loads the code of each kind when it is first needed,
    so that some come later than others."""
    matching = lambda: browser.find_elements(By.CSS_SELECTOR, selector)[index : index + 1]  # noqa: E731
    return until(matching)[0]


def after_a_run(browser, action):
    """Do something that makes Streamlit run the page anew, and wait until it has. What is touched
    before then would be interrupted by that run."""
    finished = browser.execute_script("return window.finishedRuns")
    until(lambda: action() is None)
    until(lambda: browser.execute_script("return window.finishedRuns") > finished)


def shown(browser, text):
    """Wait for a text on the page; what the page's script has raised ends the wait."""

    def there():
        raised = browser.find_elements(By.CSS_SELECTOR, "[data-testid=stException]")
        assert not raised, raised[0].text
        return text in browser.find_element(By.TAG_NAME, "body").text

    until(there)


def button(browser, words):
    return browser.find_element(By.XPATH, f"//button[.//*[text()='{words}']]")


def click(browser, words):
    until(lambda: button(browser, words).is_displayed())
    until(lambda: button(browser, words).click() is None)


def tab(browser, words):
    find = f"//*[@role='tab'][contains(., '{words}')]"
    until(lambda: browser.find_element(By.XPATH, find).click() is None)


def chosen_model(browser):
    box = browser.find_element(By.CSS_SELECTOR, "[data-testid=stSelectbox]")
    typed = box.find_element(By.TAG_NAME, "input").get_attribute("value") or ""
    return box.text + typed


def errors(browser):
    """What the browser's console complains of, but for what comes from outside."""
    lines = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    return [line for line in lines if "127.0.0.1" in line and "favicon" not in line]


def open_page(browser, address, model="runs/own"):
    browser.get(address)
    shown(browser, "A small language model tells stories")
    until(lambda: button(browser, "Write").is_displayed())
    find(browser, "[data-testid=stApp][data-test-script-state=notRunning]")
    browser.execute_script(COUNT_RUNS)
    box = find(browser, "[data-testid=stSelectbox] input")
    after_a_run(browser, lambda: box.send_keys(model, Keys.ENTER))
    until(lambda: model in chosen_model(browser))


def length_slider(browser):
    """The slider of the story's length, and what it shows."""
    slider = find(browser, SLIDERS, 1)
    return slider, find(browser, "[data-testid=stSlider]", 1).text


def story(browser):
    return find(browser, "[data-testid=stHtml]").text


@pytest.mark.parametrize("browser", WIDTHS, indirect=True)
def test_a_story_is_written_explained_and_nothing_complains(browser, address):
    open_page(browser, address)
    prompt = find(browser, "textarea[aria-label='How does it begin?']")
    prompt.send_keys(Keys.CONTROL, "a")
    text = "The <b>cat</b> & $x$"
    after_a_run(browser, lambda: prompt.send_keys(text, Keys.CONTROL, Keys.ENTER))
    slider, shows = length_slider(browser)
    assert "200" in shows
    after_a_run(browser, lambda: slider.send_keys(Keys.ARROW_LEFT))  # by keyboard
    until(lambda: "190" in length_slider(browser)[1])
    after_a_run(browser, lambda: click(browser, "Write"))
    until(lambda: len(story(browser)) > 40)
    assert story(browser).startswith(text)
    tab(browser, "Why this word?")
    shown(browser, "had a chance of")
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= browser.execute_script("return window.innerWidth") + 1  # no sideways scrolling
    assert errors(browser) == []


def test_stop_works_at_once_and_the_story_so_far_stays(browser, address):
    open_page(browser, address, "runs/slow")  # 400 tokens take it a quarter of a minute or more
    slider, _ = length_slider(browser)
    after_a_run(browser, lambda: slider.send_keys(Keys.END))
    click(browser, "Write")
    until(lambda: len(story(browser)) > 60)
    click(browser, "Stop")
    shown(browser, "Save as text")  # drawn below the story, once nothing is being written
    length = len(story(browser))
    time.sleep(2)
    assert len(story(browser)) == length > 60
    assert errors(browser) == []


def test_fine_tuning_on_an_uploaded_file(browser, address, tmp_path):
    (tmp_path / "mine.txt").write_text("\n\n\n".join(practice_stories(6)), encoding="utf-8")
    open_page(browser, address)
    tab(browser, "Make it yours")
    file = find(browser, "input[type=file]")
    after_a_run(browser, lambda: file.send_keys(str(tmp_path / "mine.txt")))
    shown(browser, "mine.txt")
    click(browser, "Teach it")
    shown(browser, "It has learnt")
    click(browser, "Write with it")
    until(lambda: "runs/mine" in chosen_model(browser))
    assert errors(browser) == []
