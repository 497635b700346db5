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
