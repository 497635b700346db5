"""The short form of kill_training.py."""

import sys

import pytest

from tests.robustness.kill_training import disturb


@pytest.mark.skipif(sys.platform == "win32", reason="files that are open there cannot be replaced")
@pytest.mark.parametrize("word", ["step", "writing"])
def test_a_run_that_was_killed_comes_to_the_same_end(word, tmp_path):
    assert disturb(word, 1, tmp_path) == []
