import pytest

import slm
from slm.stories.practice import practice_stories


@pytest.fixture
def stories(tmp_path, monkeypatch) -> str:
    """A file of stories in a folder of its own, which is the current one."""
    monkeypatch.chdir(tmp_path)
    text = "\n<|endoftext|>\n".join(practice_stories(30))
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    return "mine.txt"


@pytest.fixture
def model(stories, random_model, tokenizer) -> str:
    """A folder with a small model, beside the file of stories."""
    slm.save_model("model", random_model(), tokenizer)
    return "model"


@pytest.fixture
def served(model, monkeypatch):
    """What `slm serve` would serve: the application, and the address where it listens."""
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi_offline")
    calls = []

    def run(server, sockets):
        [listener] = sockets
        calls.append((server.config.app, listener.getsockname()))
        listener.close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return calls
