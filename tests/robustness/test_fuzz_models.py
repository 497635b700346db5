"""The short form of fuzz_models.py."""

import pytest

from tests.robustness.fuzz_models import ACCEPTED, CLEAN, ELSE, fuzz


@pytest.mark.filterwarnings("ignore")
def test_damaged_folders_are_refused_cleanly_or_rightly_accepted(tmp_path):
    counts, findings = fuzz(40, tmp_path)
    assert findings == []
    for counter in counts.values():
        assert counter[CLEAN] + counter[ACCEPTED] == 40
        assert counter[CLEAN] > 0
        assert counter[ELSE] == 0
