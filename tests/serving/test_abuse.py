import os
from statistics import median

import pytest

pytest.importorskip("httpx")
pytest.importorskip("fastapi_offline")

from tests.robustness.abuse_server import run


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking it")
def test_honest_clients_are_served_beside_all_kinds_of_abuse():
    """The short form of tests/robustness/abuse_server.py."""
    alone, abused = run(seconds=6, idle_count=40)
    assert abused.failures == []
    assert len(abused.seconds) >= 4
    assert max(abused.seconds) < 20  # before rows were shared out: a minute
    assert median(abused.seconds) < 100 * median(alone.seconds)
    assert not [status for _, status in abused.statuses if status >= 500]
    assert abused.statuses["at the end", 200] == 1
