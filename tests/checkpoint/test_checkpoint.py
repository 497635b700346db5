import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import slm
from slm.checkpoint.loading import load_model
from slm.checkpoint.saving import save_model
from slm.generation.text_generation import generate
from slm.settings import SamplingConfig
from slm.tokenizer.byte_pair import Tokenizer, load_tokenizer
from slm.tokenizer.training import train_tokenizer
from slm.utils.files import write_files

SHAPES = [
    {},
    {"n_kv_heads": 2, "rope_theta": 300.0, "dropout": 0.25},
    {"n_kv_heads": 1, "tie_embeddings": False, "norm_eps": 0.1},
    {"tie_embeddings": False, "n_layers": 3, "d_ff": 40, "context_length": 20},
]
FILES = {
    "slm.json",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
TEXTS = [
    "",
    "Once upon a time, there was a cat.\n\nIt's  2 o'clock!",
    "The end.<|endoftext|>The<|endoftext|>",
    "日本語 😀 é\u0301 \u200b",
]


def some_ids(*shape, seed=0):
    return torch.randint(280, shape, generator=torch.Generator().manual_seed(seed))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path, random_model, tokenizer):
    return save_model(tmp_path / "a" / "model", random_model(), tokenizer)


def test_in_16_bits_the_folder_takes_half_the_room_and_says_so(random_model, tokenizer, tmp_path):
    model = random_model()
    for name, dtype in (("whole", torch.float32), ("half", torch.float16)):
        save_model(tmp_path / name, model, tokenizer, dtype)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.float16
    again, _ = load_model(tmp_path / "half")
    for name, weight in model.state_dict().items():
        assert again.state_dict()[name].dtype == torch.float32
        assert torch.equal(again.state_dict()[name], weight.half().float())


@pytest.mark.parametrize("fields", SHAPES, ids=str)
@torch.no_grad()
def test_transformers_loads_a_saved_folder_and_gives_the_same_logits(
    fields, random_model, tokenizer, tmp_path
):
    model, ids = random_model(**fields), some_ids(2, 20)
    folder = save_model(str(tmp_path), model, tokenizer)
    theirs, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert theirs.dtype == torch.float32
    torch.testing.assert_close(theirs(ids).logits, model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fields", SHAPES, ids=str)
@torch.no_grad()
def test_a_model_comes_back_as_it_was_saved(fields, random_model, tokenizer, tmp_path):
    model, ids = random_model(**fields), some_ids(2, 20)
    before = torch.get_rng_state()
    loaded, its_tokenizer = load_model(save_model(tmp_path / "new" / "folder", model, tokenizer))
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.config == model.config
    assert torch.equal(loaded(ids), model(ids))
    assert not any(module.training for module in loaded.modules())
    assert its_tokenizer.digest == tokenizer.digest
    assert all(weight.requires_grad for weight in loaded.parameters())


def test_a_folder_holds_what_it_says_and_nothing_else(folder):
    assert set(contents(folder)) == FILES


def test_bfloat16_weights_come_back_in_float32(random_model, tokenizer, tmp_path):
    model = random_model().bfloat16()
    loaded, _ = load_model(save_model(tmp_path, model, tokenizer))
    for name, weight in loaded.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, model.state_dict()[name].float())


@pytest.mark.parametrize("name", ["small", "stories"])
def test_transformers_tokenizer_gives_the_same_ids(name, random_model, tokenizer, tmp_path):
    ours = tokenizer if name == "small" else load_tokenizer(name)
    model = random_model(vocab_size=ours.vocab_size, n_layers=1)
    theirs = AutoTokenizer.from_pretrained(save_model(tmp_path, model, ours))
    assert len(theirs) == ours.vocab_size
    assert theirs.bos_token_id == theirs.eos_token_id == ours.eot_id
    for text in TEXTS:
        assert theirs(text, split_special_tokens=True)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text


def test_transformers_samples_as_we_do_unless_told_otherwise(folder, tokenizer):
    defaults = AutoModelForCausalLM.from_pretrained(folder).generation_config
    ours, eot = SamplingConfig(), tokenizer.eot_id
    assert defaults.do_sample is True
    assert defaults.temperature == ours.temperature
    assert not defaults.top_k  # transformers' own default would be 50
    assert defaults.top_p in (None, 1.0)
    assert defaults.min_p == ours.min_p
    assert defaults.max_new_tokens == min(ours.max_new_tokens, 32)
    assert (defaults.bos_token_id, defaults.eos_token_id, defaults.pad_token_id) == (eot, eot, eot)


@pytest.mark.parametrize("prompt", ["", "Once upon a time", "日本 😀"])
def test_transformers_writes_the_same_stories(prompt, random_model, tokenizer, tmp_path):
    model = random_model(seed=3, n_kv_heads=2, context_length=64)
    theirs = AutoModelForCausalLM.from_pretrained(save_model(tmp_path, model, tokenizer))
    expected = generate(model, tokenizer, prompt, temperature=0, max_new_tokens=24)
    settings = {"do_sample": False, "max_new_tokens": 24}
    if prompt:
        write = pipeline(
            "text-generation", theirs, tokenizer=AutoTokenizer.from_pretrained(tmp_path)
        )
        (written,) = write(prompt, **settings, clean_up_tokenization_spaces=False)
        assert written["generated_text"] == expected
    else:
        first, *ids = theirs.generate(**settings)[0].tolist()
        assert first == tokenizer.eot_id
        assert tokenizer.decode(ids) == expected


def fail(*arguments, **settings):
    raise OSError("the disk is full")


@pytest.mark.parametrize(
    ("what", "name", "kept"),
    [
        (safetensors.torch, "save", FILES),
        (Tokenizer, "files", {"tokenizer.json", "tokenizer_config.json"}),
        (Path, "replace", FILES),
    ],
)
def test_saving_that_fails_leaves_whole_files_and_no_litter(
    what, name, kept, folder, random_model, tokenizer, monkeypatch
):
    before = contents(folder)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk is full"):
        patch.setattr(what, name, fail)
        save_model(folder, random_model(seed=2, dropout=0.5), tokenizer)
    after = contents(folder)
    assert set(after) == FILES
    assert {file for file in FILES if after[file] == before[file]} >= kept
    load_model(folder)


def test_saving_over_a_folder_replaces_the_model_and_leaves_other_files(
    folder, random_model, tokenizer
):
    (folder / "notes.txt").write_text("mine")
    model = random_model(seed=2)
    save_model(folder, model, tokenizer)
    loaded, _ = load_model(folder)
    assert torch.equal(loaded(some_ids(1, 9)), model(some_ids(1, 9)))
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_tokenizer_of_another_size_is_not_saved_with_a_model(random_model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"281 tokens .*tokenizer.* 280"):
        save_model(tmp_path / "model", random_model(vocab_size=281), tokenizer)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(missing, folder):
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(folder / missing))):
        load_model(folder)


@pytest.mark.parametrize("name", ["nowhere", "a/b", "model\nstories"])
def test_a_missing_folder_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(name)):
        load_model(tmp_path / name)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (b'{"model_type": "llama", ', "line 1|Expecting"),
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "utf-8"),
        (b"[]", ""),
        ({"model_type": "gpt2"}, "gpt2.*llama"),
        ({"model_type": None}, "llama"),
        ({"hidden_size": None}, "d_model"),
        ({"num_attention_heads": "4"}, "n_heads"),
        ({"num_key_value_heads": 3}, "n_kv_heads"),
        ({"hidden_size": 64}, "head_dim"),
        ({"hidden_size": 64, "head_dim": 16}, "size mismatch"),
        ({"num_hidden_layers": 1}, "Unexpected key"),
        ({"tie_word_embeddings": False}, "lm_head"),
        *[({name: ...}, name) for name in ("model_type", "hidden_size", "vocab_size")],
    ],
    ids=str,
)
def test_a_config_that_is_damaged_or_fits_no_weights_is_refused(config, reason, folder):
    path = folder / "config.json"
    if isinstance(config, dict):
        config = json.loads(path.read_text()) | config
        config = {name: value for name, value in config.items() if value is not ...}
        config = json.dumps(config).encode()
    path.write_bytes(config)
    with pytest.raises(ValueError, match=rf"(?s){re.escape(str(folder))}.*({reason})"):
        load_model(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -7])
def test_damaged_weights_are_refused(kept, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"{re.escape(str(folder))}.*damaged"):
        load_model(folder)


def test_weights_of_another_model_are_refused(folder):
    safetensors.torch.save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        load_model(folder)


def test_a_folder_with_the_tokenizer_of_another_model_is_refused(folder):
    write_files(folder, train_tokenizer(["a cat"], 270).files())
    with pytest.raises(ValueError, match="tokenizer"):
        load_model(folder)


@pytest.mark.parametrize("dtype", ["float16", None, 16, torch.int8])
def test_only_a_number_format_of_weights_is_taken(random_model, tokenizer, tmp_path, dtype):
    with pytest.raises(
        ValueError, match=r"^dtype must be torch\.float32, torch\.float16 or so, not"
    ):
        save_model(tmp_path / "mine", random_model(), tokenizer, dtype)
    assert not (tmp_path / "mine").exists()


def test_a_damaged_tokenizer_is_refused(folder):
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load_model(folder)


def test_nothing_is_kept_in_a_form_that_can_run_code():
    unsafe = r"\bpickle\b|allow_pickle=True|(?<!safetensors\.)\btorch\.(load|save)\b"
    sources = [*Path(slm.__file__).parent.rglob("*.py")]
    assert len(sources) > 10
    assert [path for path in sources if re.search(unsafe, path.read_text("utf-8"))] == []
