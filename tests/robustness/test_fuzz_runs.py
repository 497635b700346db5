"""The short form of fuzz_runs.py."""

from tests.robustness.fuzz_runs import ACCEPTED, CLEAN, ELSE, fuzz


def test_damaged_states_and_caches_are_refused_cleanly_rightly_accepted_or_made_anew(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SLM_CACHE", str(tmp_path / "cache"))
    counts, findings = fuzz(60, tmp_path)
    assert findings == []
    for counter in counts.values():
        assert counter[CLEAN] + counter[ACCEPTED] == 60
        assert counter[CLEAN] > 0
        assert counter[ELSE] == 0
