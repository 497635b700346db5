"""The page in a real browser. It is left out where there is no Chromium with its driver."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64decode
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
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg  # noqa: E402

PROMPT = "textarea[aria-label='How does it begin?']"
SLIDERS = "[data-testid=stSidebar] [data-testid=stSlider]"
HANDLE = "input[type=range], [role=slider]"
# Stories that can be seen on the page, each in a component of its own.
FIND_STORIES = """
const stories = [];
for (const host of document.querySelectorAll("*")) {
    const story = host.shadowRoot?.querySelector(".view");
    if (story && host.getClientRects().length) stories.push(story);
}
return stories;
"""
WIDTHS = {"desktop": (1280, 800), "phone": (390, 844)}


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
    if width < 500:  # a window cannot be as narrow as a phone
        metrics = {"width": width, "height": height, "pixelRatio": 1.0, "mobile": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
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
    """Do something that makes Streamlit run the page's script anew, and wait until it has. What is
    touched before then would be interrupted by that run."""
    finished_runs(browser)  # those of before
    until(lambda: action() is None)
    until(lambda: finished_runs(browser) > 0)


def finished_runs(browser):
    """How many runs the server has said to be finished since this was last asked. The page itself
    does not show all of them: where beginning and end arrive together, it never seems to run."""
    count = 0
    for entry in browser.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.webSocketFrameReceived":
            frame = ForwardMsg.FromString(b64decode(event["params"]["response"]["payloadData"]))
            count += is_end_of_run(frame)
    return count


def is_end_of_run(frame):
    """Whether a message of the server says that the whole script has run, and not only a part."""
    is_end = frame.WhichOneof("type") == "script_finished"
    return is_end and frame.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY


def shown(browser, text):
    """Wait for a text on the page; what the page's script has raised ends the wait."""

    def there():
        raised = browser.find_elements(By.CSS_SELECTOR, "[data-testid=stException]")
        assert not raised, raised[0].text
        return text in browser.find_element(By.TAG_NAME, "body").text

    try:
        until(there)
    except AssertionError as error:
        page = browser.find_element(By.TAG_NAME, "body").text
        raise AssertionError(f"{text!r} is not on the page, but {page}") from error


def button(browser, words):
    """The button with these words that can be seen, if there is one."""
    found = browser.find_elements(By.XPATH, f"//button[not(@role='tab')][.//*[text()='{words}']]")
    return next((button for button in found if button.is_displayed()), None)


def click(browser, words):
    until(lambda: button(browser, words) is not None)
    until(lambda: button(browser, words).click() is None)


def tab(browser, words):
    find = f"//*[@role='tab'][contains(., '{words}')]"
    until(lambda: browser.find_element(By.XPATH, find).click() is None)


def chosen_model(browser):
    box = browser.find_element(By.CSS_SELECTOR, "[data-testid=stSidebar] [data-testid=stSelectbox]")
    typed = box.find_element(By.TAG_NAME, "input").get_attribute("value") or ""
    return box.text + typed


def errors(browser):
    """What the browser's console complains of, but for what comes from outside."""
    lines = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    return [line for line in lines if "127.0.0.1" in line and "favicon" not in line]


def open_page(browser, address, model=None):
    browser.get(address)
    wait_for_page(browser)
    if model:
        box = find(browser, "[data-testid=stSidebar] [data-testid=stSelectbox] input")
        after_a_run(browser, lambda: box.send_keys(model, Keys.ENTER))
        until(lambda: model in chosen_model(browser))


def wait_for_page(browser):
    shown(browser, "A small language model tells stories")
    until(lambda: button(browser, "Write") or button(browser, "Stop"))
    find(browser, "[data-testid=stApp][data-test-script-state=notRunning]")


def move_slider(browser, number, key):
    """Move one of the sliders in the sidebar by keyboard, and wait until the page has heard of it;
    what it shows then."""
    handle = find(browser, SLIDERS, number).find_element(By.CSS_SELECTOR, HANDLE)
    before = find(browser, SLIDERS, number).text
    after_a_run(browser, lambda: handle.send_keys(key))
    until(lambda: find(browser, SLIDERS, number).text != before)
    return find(browser, SLIDERS, number).text


def story_view(browser, number=0):
    """The component with one of the stories that can be seen."""
    return until(lambda: browser.execute_script(FIND_STORIES)[number : number + 1])[0]


def story(browser, number=0):
    """The text of a story, as far as it is written."""
    text = "return arguments[0].querySelector('.story').textContent"
    return until(lambda: browser.execute_script(text, story_view(browser, number)))


def words(browser, number=0):
    """The words of a story that can be clicked, once it is finished."""
    return until(lambda: story_view(browser, number).find_elements(By.CSS_SELECTOR, ".word"))


def panel(browser, number=0):
    """What is said about the word that was clicked, if one was."""
    found = story_view(browser, number).find_element(By.CSS_SELECTOR, ".panel")
    return found.text if found.is_displayed() else ""


def bottom(browser, element):
    """Where an element ends, in pixels from the top of the window."""
    return browser.execute_script("return arguments[0].getBoundingClientRect().bottom", element)


@pytest.mark.parametrize("browser", WIDTHS, indirect=True)
def test_a_story_is_written_explained_and_nothing_complains(browser, address):
    open_page(browser, address)
    prompt = find(browser, PROMPT)
    text = "The <b>cat</b> & $x$"
    until(lambda: prompt.send_keys(Keys.CONTROL, "a") is None)
    prompt.send_keys(text)
    click(browser, "Write")
    until(lambda: len(story(browser)) > 60)
    first_words = words(browser)
    assert story(browser).startswith(text)

    height = browser.execute_script("return window.innerHeight")
    until(lambda: button(browser, "Write"))
    assert bottom(browser, prompt) < height
    assert bottom(browser, button(browser, "Write")) < height
    assert bottom(browser, first_words[5]) < height / 2  # the story begins in the upper half
    scrolled = browser.execute_script(
        "const view = arguments[0].querySelector('.story');"
        "return view.scrollHeight > view.clientHeight + 1",
        story_view(browser),
    )
    assert not scrolled  # it is as long as it is
    assert button(browser, "Stop") is None

    chosen = next(word for word in first_words if "at" in word.text)
    until(lambda: chosen.click() is None)
    until(lambda: chosen.text.strip() in panel(browser))
    assert "was given. The model gave it a chance of" in panel(browser)
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= browser.execute_script("return window.innerWidth") + 1  # no sideways scrolling
    assert errors(browser) == []


def test_words_are_reached_by_keyboard(browser, address):
    open_page(browser, address)
    click(browser, "Write")
    first_words = words(browser)
    browser.execute_script("arguments[0].focus()", first_words[0])
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ENTER):
        focused(browser).send_keys(key)
    until(lambda: panel(browser))
    assert f"“{first_words[2].text.strip()}”" in panel(browser)
    assert "what the model listened to" in panel(browser)
    assert first_words[2].get_attribute("class").split()[-1] == "chosen"
    focused(browser).send_keys(Keys.ESCAPE)
    until(lambda: panel(browser) == "")


def focused(browser):
    """The element with the focus, which `document` does not know within a component."""
    return browser.execute_script(
        "return arguments[0].getRootNode().activeElement", story_view(browser)
    )


def test_neither_a_slider_nor_a_reload_ends_a_story_but_stop_does(browser, address):
    open_page(browser, address, "runs/slow")  # 400 tokens take it a quarter of a minute or more
    assert "400" in move_slider(browser, 1, Keys.END)
    click(browser, "Write")
    until(lambda: len(story(browser)) > 60)
    assert "0.85" in move_slider(browser, 0, Keys.ARROW_RIGHT)
    length = len(story(browser))
    until(lambda: len(story(browser)) > length + 40)
    written = story(browser)
    browser.refresh()
    wait_for_page(browser)
    assert story(browser).startswith(written)
    until(lambda: len(story(browser)) > len(written) + 40)
    click(browser, "Stop")
    shown(browser, "Save as text")  # drawn below the story, once nothing is being written
    shown(browser, "Written by runs/slow.")
    assert len(words(browser)) < 400 + 40  # fewer than it was to have, and those of the prompt
    assert button(browser, "Write") is not None
    assert errors(browser) == []


def test_what_is_pasted_is_counted_at_once_and_still_there_after_a_reload(browser, address):
    open_page(browser, address)
    prompt = find(browser, PROMPT)
    one, two = (" ".join(story.split()) for story in practice_stories(2))
    browser.execute_script("arguments[0].focus()", prompt)
    prompt.send_keys(Keys.CONTROL, "a")
    for line in f"{one}\n\n{two}".split("\n"):
        prompt.send_keys(line, Keys.ENTER)
    prompt.send_keys(Keys.CONTROL, "a")
    prompt.send_keys(Keys.CONTROL, "c")
    tab(browser, "Make it yours")
    box = find(browser, "textarea[aria-label='Paste your stories here']")
    until(lambda: box.send_keys(Keys.CONTROL, "v") is None)
    shown(browser, "2 stories found, separated by a blank line.")
    assert browser.switch_to.active_element == box  # one can go on typing
    browser.refresh()
    wait_for_page(browser)
    tab(browser, "Make it yours")
    shown(browser, "2 stories found, separated by a blank line.")
    assert errors(browser) == []


def give_files(browser, *files):
    """Upload files in one go, once the place for them is seen; what was read is said below it."""
    place = find(browser, "[data-testid=stFileUploaderDropzone]")
    until(place.is_displayed)
    find(browser, "[data-testid=stApp][data-test-script-state=notRunning]")
    box = find(browser, "input[type=file]")
    until(lambda: box.send_keys("\n".join(map(str, files))) is None)


def write_files(folder, number, stories_each):
    """Files of one name, in folders of their own, with practice stories."""
    texts = practice_stories(number * stories_each)
    files = []
    for i in range(number):
        file = folder / str(i) / "mine.txt"
        file.parent.mkdir()
        some = texts[i * stories_each : (i + 1) * stories_each]
        file.write_text("\n\n\n".join(some), encoding="utf-8")
        files.append(file)
    return files


def test_neither_a_slider_nor_a_reload_ends_fine_tuning_but_stop_keeps_the_best(
    browser, address, tmp_path
):
    open_page(browser, address, "runs/own")
    tab(browser, "Make it yours")
    give_files(browser, *write_files(tmp_path, 2, stories_each=60))
    shown(browser, "mine.txt: 60 stories")
    shown(browser, "mine.txt (number 2 of this name): 60 stories")
    click(browser, "Teach it")
    shown(browser, "reading your stories, round 1")
    move_slider(browser, 0, Keys.ARROW_RIGHT)
    shown(browser, "reading your stories, round")
    page = browser.find_element(By.TAG_NAME, "body").text
    assert page.count("reading your stories") == 1
    browser.refresh()
    wait_for_page(browser)
    shown(browser, "runs/mine: reading your stories, round 2")  # above all tabs
    tab(browser, "Make it yours")
    click(browser, "Stop")
    shown(browser, "It has learnt")
    shown(browser, "made up for practice")
    click(browser, "Write with it")
    until(lambda: "runs/mine" in chosen_model(browser))
    until(lambda: button(browser, "Write"))  # the first tab is open, to try it at once
    assert errors(browser) == []


def test_fine_tuning_ends_by_itself_and_a_name_that_exists_asks(browser, address, tmp_path):
    open_page(browser, address, "runs/own")
    tab(browser, "Make it yours")
    name = find(browser, "input[aria-label='Name of the new model']")
    name.send_keys(Keys.CONTROL, "a")
    after_a_run(browser, lambda: name.send_keys("few", Keys.ENTER))
    give_files(browser, *write_files(tmp_path, 1, stories_each=6))
    shown(browser, "mine.txt: 6 stories")
    click(browser, "Teach it")
    shown(browser, "It is in runs/few.")
    click(browser, "Teach it")
    shown(browser, "There is a model runs/few already. Replace it?")
    click(browser, "Leave it")
    until(lambda: button(browser, "Leave it") is None)
    assert button(browser, "Teach it") is not None
    assert errors(browser) == []
