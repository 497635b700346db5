"""How fast does the story-teller in one file write in Chromium? It is opened from the disk, and
writes stories of the likeliest tokens; all that a person would see is shown. Tokens per second of
the clock, and per second of the processor's time, which depends less on what else the machine is
doing. Run: python tests/benchmarks/html_page.py"""

import argparse
import shutil
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil
from common import machine, table
from selenium import webdriver
from selenium.webdriver.common.by import By

from slm.export.html import export_html

PROMPTS = ("Once upon a time", "The dragon was afraid of", '"Where is my hat?" asked the')
WRITE = """
const [prompt, done] = arguments;
element("prompt").value = prompt;
element("temperature").value = 0;
const start = performance.now();
element("form").requestSubmit();
(async () => {
  while (writing) await new Promise((resolve) => setTimeout(resolve, 20));
  done([story.tokens.length, (performance.now() - start) / 1000]);
})();
"""


def open_browser(folder: Path) -> webdriver.Chrome:
    """Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser")
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={folder}")
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    browser.set_script_timeout(600)
    return browser


def processor_seconds(browser: webdriver.Chrome) -> float:
    """Of all processes of the browser together."""
    driver = psutil.Process(browser.service.process.pid)
    times = [process.cpu_times() for process in driver.children(recursive=True)]
    return sum(time.user + time.system for time in times)


def main() -> None:
    """Write each story several times, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="stories")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(machine("selenium"))
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = export_html(arguments.model, Path(folder) / "story.html")
        browser = open_browser(Path(folder) / "chromium")
        start = time.perf_counter()
        browser.get(file.as_uri())
        while not browser.find_element(By.ID, "write").is_enabled():
            time.sleep(0.01)
        print(f"Ready to write after {time.perf_counter() - start:.2f} seconds.")
        browser.execute_async_script(WRITE, "One day")  # to warm up
        rows = []
        for prompt in PROMPTS:
            by_clock = []
            by_processor = []
            for _ in range(arguments.rounds):
                before = processor_seconds(browser)
                tokens, seconds = browser.execute_async_script(WRITE, prompt)
                by_clock.append(tokens / seconds)
                by_processor.append(tokens / (processor_seconds(browser) - before))
            rows.append(
                [prompt, tokens]
                + [
                    f"{value(rates):.0f}"
                    for rates in (by_clock, by_processor)
                    for value in (median, max)
                ]
            )
        browser.quit()
    header = ["prompt", "tokens", "a second, median", "best", "a processor second, median", "best"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
