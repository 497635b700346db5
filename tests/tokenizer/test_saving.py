from pathlib import Path

import pytest

import slm
from slm.stories.practice import practice_stories
from slm.tokenizer.pretrained import PretrainedTokenizer
from slm.tokenizer.training import train_tokenizer
from tests.pretrained import llama2_tokenizer, llama3_tokenizer, publish

OTHER_WORDS = ["Another tale, with quite other words in it."] * 3


@pytest.fixture
def other():
    """As many tokens as the test's own tokenizer has, but others."""
    return train_tokenizer(OTHER_WORDS, 280)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_another_tokenizer_is_not_saved_over_that_of_a_model(
    random_model, tokenizer, other, tmp_path
):
    slm.save_model(tmp_path / "mine", random_model(), tokenizer)
    before = contents(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"mine holds a model with another tokenizer.*another fol"):
        other.save(tmp_path / "mine")
    assert contents(tmp_path / "mine") == before


def test_the_same_tokenizer_may_be_saved_again(random_model, tokenizer, tmp_path):
    slm.save_model(tmp_path, random_model(), tokenizer)
    before = contents(tmp_path)
    tokenizer.save(tmp_path)
    assert contents(tmp_path) == before


def test_where_there_is_no_model_a_tokenizer_replaces_another(tokenizer, other, tmp_path):
    tokenizer.save(tmp_path)
    other.save(tmp_path)
    assert slm.load_tokenizer(tmp_path).digest == other.digest


@pytest.mark.parametrize("damage", ["missing", "half", "a list"])
def test_a_models_tokenizer_that_is_damaged_can_be_mended(
    random_model, tokenizer, tmp_path, damage
):
    slm.save_model(tmp_path, random_model(), tokenizer)
    path = tmp_path / "tokenizer.json"
    whole = path.read_bytes()
    path.unlink()
    if damage == "half":
        path.write_bytes(whole[: len(whole) // 2])
    if damage == "a list":
        path.write_bytes(b"[1, 2]")
    tokenizer.save(tmp_path)
    assert path.read_bytes() == whole
    slm.load_model(tmp_path)


def test_the_tokenizers_of_other_models_are_not_mixed_up_either(tokenizer, tmp_path):
    publish(tmp_path / "llama-2", llama2_tokenizer())
    publish(tmp_path / "llama-3", llama3_tokenizer())
    theirs = PretrainedTokenizer(tmp_path / "llama-2")
    for given in (theirs, tokenizer):
        with pytest.raises(ValueError, match="holds a model with another tokenizer"):
            given.save(tmp_path / "llama-3")
    theirs.save(tmp_path / "llama-2")
    assert PretrainedTokenizer(tmp_path / "llama-2").digest == theirs.digest


def test_a_run_that_starts_over_may_have_another_tokenizer(tokenizer, other, tmp_path):
    """The run that is replaced on purpose takes its tokenizer with it."""
    texts = slm.load_stories(practice_stories(30))
    sizes = {"d_model": 16, "n_layers": 1, "n_heads": 1, "context_length": 32, "batch_size": 2}
    settings = {"folder": tmp_path / "run", "steps": 1, "device": "cpu", **sizes}
    slm.train(texts, tokenizer=tokenizer, **settings)
    slm.train(texts, tokenizer=other, fresh=True, **settings)
    assert slm.load_model(tmp_path / "run")[1].digest == other.digest


def test_a_file_where_the_folder_should_be_is_said(tokenizer, tmp_path):
    (tmp_path / "mine").write_text("a file")
    with pytest.raises(OSError, match=r"mine cannot be written: a file is where a folder must be"):
        tokenizer.save(tmp_path / "mine")
