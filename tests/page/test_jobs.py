import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("streamlit")

import slm
from slm.page.jobs import Job


class Waiting(Job):
    """A job that waits until it is stopped."""

    def __init__(self):
        super().__init__()
        self.has_begun = threading.Event()

    def work(self):
        self.has_begun.set()
        while not self.should_stop:
            pass


class Failing(Job):
    """A job that raises an error."""

    def __init__(self, error):
        super().__init__()
        self.raised = error

    def work(self):
        raise self.raised


def test_a_job_runs_until_it_is_stopped():
    job = Waiting()
    assert not job.is_running
    job.start()
    job.has_begun.wait()
    assert job.is_running and not job.is_stopping
    job.stop()
    job.wait()
    assert not job.is_running and not job.is_stopping


SCRIPT = """
import threading, time
from slm.page.jobs import Job

class Saving(Job):
    def work(self):
        while not self.should_stop:
            time.sleep(0.01)
        print("saved")

job = Saving()
starter = threading.Thread(target=job.start, daemon=True)  # as Streamlit's scripts are run
starter.start()
starter.join()
"""


def test_when_the_server_ends_a_job_ends_early_but_in_order():
    root = Path(slm.__file__).parents[1]
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.stdout == "saved\n", done.stderr


@pytest.mark.parametrize(
    "error, sentence",
    [
        (ValueError("no such setting"), "no such setting"),
        (KeyError("x"), "This failed: KeyError: 'x'"),
    ],
)
def test_what_fails_is_said_in_a_sentence(error, sentence):
    job = Failing(error)
    job.start()
    job.wait()
    assert job.error == sentence
