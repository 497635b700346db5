import sys

import pytest

from tests.robustness import fuzz_files

OWN = ["txt", "txt, blank lines", "csv", "csv, semicolons", "json", "jsonl", "parquet"]
SAVED = ["kept TinyStories", "tokenizer.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of memory and time are Unix's")
@pytest.mark.parametrize("kind", OWN + SAVED)
def test_a_damaged_file_gives_a_sentence_or_what_it_says(kind):
    outcomes = fuzz_files.fuzz(kind, count=60, seed=1)
    assert set(outcomes) <= {"sentence", "accepted"}
    assert outcomes.total() == 60
