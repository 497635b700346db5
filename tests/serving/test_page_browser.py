"""The page in a real browser. It is left out where there is no Chromium with its driver."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import slm
from slm.stories.practice import practice_stories

pytest.importorskip("streamlit")
selenium = pytest.importorskip("selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("there is no chromium with chromedriver", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

SLIDERS = "[data-testid=stSlider] input[type=range], [data-testid=stSlider] [role=slider]"
WIDTHS = {"desktop": (1280, 1400), "phone": (390, 844)}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page as `python -m slm app` serves it, in a folder of its own, with practice stories for
    ordinary ones."""
    from slm.tokenizer.training import train_tokenizer

    folder = tmp_path_factory.mktemp("page")
    tokenizer = train_tokenizer(practice_stories(100), 400)
    config = slm.ModelConfig(400, context_length=64, n_layers=2, d_model=32)
    slm.save_model(folder / "runs" / "own", slm.Transformer(config), tokenizer)
    slow = slm.ModelConfig(400, context_length=512, n_layers=24, n_heads=8, d_model=512)
    slm.save_model(folder / "runs" / "slow", slm.Transformer(slow), tokenizer)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"PYTHONPATH": str(Path(slm.__file__).parents[1]), "SLM_CACHE": str(folder / "cache")}
    own |= {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "slm", "app", "--headless", "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | own)
    try:
        for _ in range(300):
            with socket.socket() as knock:
                if not knock.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


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


def until(find, seconds=30.0):
    """What `find` gives, once it gives something."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := find():
                return found
        except Exception as error:  # the page is being drawn anew
            if time.monotonic() > end:
                raise AssertionError("it does not come") from error
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.1)


def shown(browser, text):
    return until(lambda: text in browser.find_element(By.TAG_NAME, "body").text)


def click(browser, words):
    find = lambda: browser.find_element(By.XPATH, f"//button[.//*[text()='{words}']]")  # noqa: E731
    until(lambda: find().is_displayed())
    until(lambda: find().click() is None)


def tab(browser, words):
    find = f"//*[@role='tab'][contains(., '{words}')]"
    until(lambda: browser.find_element(By.XPATH, find).click() is None)


def errors(browser):
    """What the browser's console complains of, but for what comes from outside."""
    lines = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    return [line for line in lines if "127.0.0.1" in line and "favicon" not in line]


def open_page(browser, address, model="runs/own"):
    browser.get(address)
    shown(browser, "A small language model tells stories")
    box = until(lambda: browser.find_element(By.CSS_SELECTOR, "[data-testid=stSelectbox] input"))
    box.send_keys(model, Keys.ENTER)
    time.sleep(1)
    until(lambda: browser.find_element(By.XPATH, "//button[.//*[text()='Write']]"))


def story(browser):
    return browser.find_element(By.CSS_SELECTOR, "[data-testid=stHtml]").text


@pytest.mark.parametrize("browser", WIDTHS, indirect=True)
def test_a_story_is_written_explained_and_nothing_complains(browser, address):
    open_page(browser, address)
    prompt = browser.find_element(By.CSS_SELECTOR, "textarea[aria-label='How does it begin?']")
    prompt.send_keys(Keys.CONTROL, "a")
    prompt.send_keys("The <b>cat</b> & $x$", Keys.CONTROL, Keys.ENTER)
    time.sleep(1)
    knob = lambda: browser.find_elements(By.CSS_SELECTOR, SLIDERS)[1]  # noqa: E731
    told = lambda: browser.find_elements(By.CSS_SELECTOR, "[data-testid=stSlider]")[1].text  # noqa: E731
    until(lambda: "200" in told())
    until(lambda: knob().send_keys(Keys.ARROW_LEFT * 3) is None)  # by keyboard
    until(lambda: "170" in told())
    time.sleep(1)
    click(browser, "Write")
    until(lambda: len(story(browser)) > 40)
    assert story(browser).startswith("The <b>cat</b> & $x$")
    tab(browser, "Why this word?")
    shown(browser, "had a chance of")
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= browser.execute_script("return window.innerWidth") + 1  # no sideways scrolling
    assert errors(browser) == []


def test_stop_works_at_once_and_the_story_so_far_stays(browser, address):
    open_page(browser, address, "runs/slow")  # 400 tokens would take it a quarter of a minute
    knob = until(lambda: browser.find_elements(By.CSS_SELECTOR, SLIDERS)[1])
    knob.send_keys(Keys.END)
    time.sleep(1)
    click(browser, "Write")
    until(lambda: len(story(browser)) > 60)
    click(browser, "Stop")
    time.sleep(1)
    length = len(story(browser))
    time.sleep(2)
    assert len(story(browser)) == length > 60
    shown(browser, "Save as text")
    assert errors(browser) == []


def test_fine_tuning_on_an_uploaded_file(browser, address, tmp_path):
    (tmp_path / "mine.txt").write_text("\n\n\n".join(practice_stories(20)), encoding="utf-8")
    open_page(browser, address)
    tab(browser, "Make it yours")
    file = until(lambda: browser.find_element(By.CSS_SELECTOR, "input[type=file]"))
    file.send_keys(str(tmp_path / "mine.txt"))
    shown(browser, "mine.txt")
    click(browser, "Teach it")
    shown(browser, "It has learnt")
    click(browser, "Write with it")
    chosen = "[data-testid=stSelectbox]"
    until(lambda: "runs/mine" in (
        browser.find_element(By.CSS_SELECTOR, chosen).text
        + (browser.find_element(By.CSS_SELECTOR, f"{chosen} input").get_attribute("value") or "")
    ))  # fmt: skip
    assert errors(browser) == []
