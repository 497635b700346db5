import json
from pathlib import Path

import pytest
import torch

import slm
from slm.checkpoint.loading import load_model
from slm.checkpoint.saving import save_model
from slm.quantization.matrix import quantize
from slm.tokenizer.training import train_tokenizer


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_model_of_the_same_shape_replaces_the_one_before_with_a_message(
    random_model, tokenizer, capsys
):
    """As where a cell of a notebook is run again, after more training."""
    save_model("mine", random_model(seed=1), tokenizer)
    assert capsys.readouterr().out == ""
    save_model("mine", random_model(seed=2), tokenizer)
    assert capsys.readouterr().out == "mine held a model already: this one has replaced it.\n"
    loaded, _ = load_model("mine")
    for name, weight in random_model(seed=2).state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)


def another_shape(model, tokenizer):
    return {"model": slm.Transformer(slm.ModelConfig(vocab_size=280, n_layers=1, d_model=32))}


def another_tokenizer(model, tokenizer):
    return {"tokenizer": train_tokenizer(["Another tale, with other words in it."] * 3, 280)}


def in_half_precision(model, tokenizer):
    return {"dtype": torch.float16}


def quantized(model, tokenizer):
    return {"model": quantize(model)}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (another_shape, "context_length is 32 there and 256 here"),
        (another_tokenizer, "its tokenizer differs"),
        (in_half_precision, "dtype is 'float32' there and 'float16' here"),
        (quantized, "model_type is 'llama' there and 'slm-quantized' here"),
    ],
)
def test_another_model_is_not_replaced(random_model, tokenizer, change, difference):
    given = {"model": random_model(), "tokenizer": tokenizer}
    save_model("mine", **given)
    before = contents("mine")
    sentence = rf"^mine already holds another model \({difference}\): name another folder"
    with pytest.raises(ValueError, match=sentence):
        save_model("mine", **given | change(**given))
    assert contents("mine") == before


def test_a_model_in_8_bits_is_not_replaced_by_one_in_4(random_model, tokenizer):
    save_model("mine", quantize(random_model(), 8), tokenizer)
    save_model("mine", quantize(random_model(), 8), tokenizer)
    with pytest.raises(ValueError, match="mine already holds another model"):
        save_model("mine", quantize(random_model(), 4), tokenizer)


def test_a_model_of_an_earlier_version_which_wrote_less_is_replaced(random_model, tokenizer):
    save_model("mine", random_model(), tokenizer)
    Path("mine/slm.json").unlink()
    config = json.loads(Path("mine/config.json").read_text())
    for key in ("dtype", "slm_dropout"):
        del config[key]
    Path("mine/config.json").write_text(json.dumps(config))
    save_model("mine", random_model(seed=2), tokenizer)
    assert load_model("mine")[0].config == random_model().config


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "half"])
def test_a_damaged_model_of_ours_is_mended_by_saving_it_again(
    random_model, tokenizer, name, damage
):
    save_model("mine", random_model(), tokenizer)
    whole = contents("mine")
    path = Path("mine") / name
    path.unlink()
    if damage == "half":
        path.write_bytes(whole[name][: len(whole[name]) // 2])
    save_model("mine", random_model(), tokenizer)
    assert contents("mine") == whole


@pytest.mark.parametrize("content", ['{"port": 8000}', "[1, 2]", "half {"])
def test_a_config_json_of_something_else_is_not_replaced(random_model, tokenizer, content):
    Path("project").mkdir()
    Path("project/config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json does not belong to a model: name another"):
        save_model("project", random_model(), tokenizer)
    assert contents("project") == {"config.json": content.encode()}


def test_a_home_folder_that_is_not_there_is_named_wherever_a_folder_is_taken(
    random_model, tokenizer
):
    pytest.importorskip("matplotlib")  # which the report draws with
    folder = "~nobody-here/mine"
    calls = [
        lambda: load_model(folder),
        lambda: save_model(folder, random_model(), tokenizer),
        lambda: tokenizer.save(folder),
        lambda: slm.story_report(random_model(), tokenizer, file=f"{folder}.html"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"~nobody-here/mine(\.html)? cannot be found"):
            call()
    with pytest.raises(FileNotFoundError, match="no tokenizer at ~nobody-here"):
        slm.load_tokenizer(folder)


def test_a_tilde_is_the_home_folder_of_models_and_tokenizers(
    random_model, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert save_model("~/mine", random_model(), tokenizer) == tmp_path / "home" / "mine"
    load_model("~/mine")
    tokenizer.save("~/words")
    assert slm.load_tokenizer("~/words").digest == tokenizer.digest
    assert not Path("~").exists()
