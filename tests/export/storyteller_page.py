"""The story-teller's page in a real Chromium, opened from the disk with the network cut."""

import shutil
import time
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.common.by import By

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
WAIT = 300  # seconds for what takes one or two: a busy machine may need many times as long
DESK = dict(width=1280, height=900, deviceScaleFactor=1, mobile=False)
PHONE = dict(width=390, height=844, deviceScaleFactor=2, mobile=True)
# The page's objects are found by name. A test's code gives what it returns; it may await.
CALL = """
const done = arguments[arguments.length - 1];
(async (...given) => { %s })(...[...arguments].slice(0, -1)).then(
    (value) => done({ value }), (error) => done({ error: String(error) }));
"""


def start_chromium(folder):
    """A Chromium that reaches no other computer."""
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
    return driver


class Browser:
    """The open page, and what a person does with it."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, file, screen=DESK):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.get(file.as_uri())
        self.wait_until_ready()

    def reload(self):
        self.driver.refresh()
        self.wait_until_ready()

    def wait_until_ready(self):
        self.wait(lambda: self["write"].is_enabled())

    def problem_of(self, file):
        """The sentence on a page that cannot write."""
        self.driver.get(file.as_uri())
        self.wait(lambda: self["status"].get_attribute("class") == "problem")
        return self["status"].text

    @contextmanager
    def changed(self, code):
        """Run a script before those of each page that is opened meanwhile."""
        answer = self.driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument", {"source": code}
        )
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", answer)

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
