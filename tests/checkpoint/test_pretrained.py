import json

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, normalizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import slm
from slm.checkpoint import hub as hub_models
from slm.checkpoint.hub import fetch_model
from slm.stories.practice import practice_stories
from slm.tokenizer.pretrained import PretrainedTokenizer

TEXTS = ["", "Once upon a time", "It's  2 o'clock!", "日本語 😀 é", "\n\n a\tb "]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as others make them: words in another kind of pieces, a beginning that is not the
    end, shared keys and values, a table of its own for the scores, settings left unsaid."""
    folder = tmp_path_factory.mktemp("foreign")
    words = HuggingFaceTokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    words.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    words.decoder = decoders.Sequence(steps)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words.train_from_iterator(
        practice_stories(50), trainers.BpeTrainer(vocab_size=400, special_tokens=special[:3])
    )
    saved = json.loads(words.to_str())
    for token in special[3:]:  # as SentencePiece has them
        saved["model"]["vocab"].setdefault(token, len(saved["model"]["vocab"]))
    words = HuggingFaceTokenizer.from_str(json.dumps(saved))
    ends = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    PreTrainedTokenizerFast(tokenizer_object=words, **ends).save_pretrained(folder)
    shape = dict(vocab_size=words.get_vocab_size(), hidden_size=32, intermediate_size=48)
    shape |= dict(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    torch.manual_seed(0)
    config = LlamaConfig(**shape, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name in ("mlp_bias", "attention_bias", "head_dim"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_it_loads_and_gives_transformers_logits(folder):
    model, tokenizer = slm.load_model(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)
    assert (tokenizer.bos_id, tokenizer.eot_id) == (1, 2)


def test_a_model_with_one_table_may_bring_it_twice(folder, tmp_path, random_model, tokenizer):
    import safetensors.torch

    model = random_model()
    slm.save_model(tmp_path, model, tokenizer)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    again, _ = slm.load_model(tmp_path)
    assert torch.equal(again(torch.arange(5)[None]), model(torch.arange(5)[None]))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_texts_are_those_of_transformers(folder, text):
    theirs, ours = AutoTokenizer.from_pretrained(folder), PretrainedTokenizer(folder)
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids)
    assert "".join(ours.decode_stream(ids)) == theirs.decode(ids)
    assert len(ours.pieces(ids)) == len(ids)
    assert ours.encode_many([text, "b"]).tolist() == [*ids, 2, *ours.encode("b"), 2]


def test_no_piece_of_a_stream_holds_half_a_character(folder):
    ours = PretrainedTokenizer(folder)
    pieces = list(ours.decode_stream(ours.encode("日本語 😀 é")))
    assert not any("\ufffd" in piece for piece in pieces)


def test_it_writes_is_evaluated_fine_tuned_and_saved_like_our_own(folder, tmp_path):
    model, tokenizer = slm.load_model(folder)
    story = slm.generate(model, tokenizer, "Once", max_new_tokens=10, seed=0)
    assert "Once" in story
    assert slm.evaluate(model, tokenizer, ["A cat."]).tokens == len(tokenizer.encode("A cat.")) + 1
    slm.save_model(tmp_path / "again", model, tokenizer)
    config = json.loads((tmp_path / "again" / "config.json").read_text(encoding="utf-8"))
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    again, words = slm.load_model(tmp_path / "again")
    assert slm.generate(again, words, "Once", max_new_tokens=10, seed=0) == story


def test_a_folder_without_a_tokenizer_or_an_end_is_refused(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": None}), "utf-8")
    with pytest.raises(ValueError, match="eos_token_id"):
        slm.load_model(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="damaged"):
        slm.load_model(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=r"tokenizer\.json"):
        slm.load_model(tmp_path)


@pytest.fixture
def hub(folder, monkeypatch):
    """A hub with one model, and how often it was asked."""
    asked = []

    class File:
        def __init__(self, name, size):
            self.rfilename, self.size = name, size

    class Api:
        files = (File("model.safetensors", 10_000),)

        def model_info(self, name, files_metadata):
            asked.append(name)
            return type("Info", (), {"siblings": Api.files})

    def download(name, allow_patterns, local_files_only=False):
        if local_files_only:
            raise LocalEntryNotFoundError("not kept")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return Api, asked, File


def test_a_name_is_looked_for_on_the_hub(hub, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model, _ = slm.load_model("somebody/small-llama")
    assert hub[1] == ["somebody/small-llama"]
    assert model.config.d_model == 32


def test_too_large_a_model_and_one_in_other_files_are_refused(hub):
    api, _, file = hub
    api.files = [file("model.safetensors", hub_models.MAX_BYTES + 1)]
    with pytest.raises(ValueError, match=r"2\.0 GB of weights"):
        fetch_model("somebody/large")
    api.files = [file("pytorch_model.bin", 10)]
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        fetch_model("somebody/old")


def test_without_a_network_a_sentence_says_so(hub, monkeypatch):
    def refuse(self, name, files_metadata):
        raise OSError("no route")

    monkeypatch.setattr(hub[0], "model_info", refuse)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        fetch_model("somebody/small-llama")


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match="There is no model at"):
        slm.load_model("runs/mien")
    assert hub[1] == []
