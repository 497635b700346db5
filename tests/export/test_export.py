import json
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import slm
from slm.export.gguf import export_gguf
from slm.export.hub import push_to_hub
from slm.export.model_card import model_card
from slm.export.onnx import export_onnx
from slm.generation.decoder import IncrementalDecoder
from slm.generation.text_generation import generate_ids

SHAPES = [{}, {"tie_embeddings": False, "n_kv_heads": 2, "rope_theta": 300.0, "norm_eps": 1e-3}]
TEXTS = ["", "Once upon a time, there was a cat.", "It's  2 o'clock!\n\n日本語 😀", "<|endoftext|>"]


@pytest.fixture(params=SHAPES, ids=str)
def folder(request, random_model, tokenizer, tmp_path):
    shape = {"d_ff": 96} | request.param  # llama.cpp's groups want multiples of 32
    return slm.save_model(tmp_path / "model", random_model(**shape), tokenizer)


def greedy(model, ids, count):
    how = slm.SamplingConfig(temperature=0, max_new_tokens=count)
    return [new for [new] in generate_ids(IncrementalDecoder(model), [ids], how, end_ids=())]


@pytest.mark.parametrize("type", ["f32", "f16"])
def test_transformers_reads_the_gguf_file_back_as_the_same_model(folder, type):
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    file = export_gguf(folder, folder.parent / "model.gguf", type)
    how = dict(gguf_file=file.name, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, **how).eval()
    model, tokenizer = slm.load_model(folder)
    ids = torch.arange(40).view(2, 20)
    exact = type == "f32"
    with torch.no_grad():
        tolerance = dict(rtol=1e-4, atol=1e-4) if exact else dict(rtol=0.1, atol=0.05)
        torch.testing.assert_close(theirs(ids).logits, model(ids), **tolerance)
    words = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in TEXTS[:3]:
        assert words(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    assert words.bos_token_id == words.eos_token_id == tokenizer.eot_id


def test_llama_cpp_reads_the_same_tokens_and_writes_the_same_story(folder):
    llama_cpp = pytest.importorskip("llama_cpp")
    model, tokenizer = slm.load_model(folder)
    file = export_gguf(folder, folder.parent / "model.gguf", "f32")
    llama = llama_cpp.Llama(str(file), verbose=False, n_ctx=32, n_threads=1, logits_all=True)
    for text in TEXTS[:3]:
        plain = llama.tokenize(text.encode(), add_bos=False, special=False)
        assert plain == tokenizer.encode(text)
    prompt = [tokenizer.eot_id, *tokenizer.encode("Once upon a")]
    assert llama.tokenize(b"Once upon a", add_bos=True) == prompt
    count = 32 - len(prompt)
    theirs = [new for new, _ in zip(llama.generate(prompt, temp=0.0), range(count))]
    assert theirs == greedy(model, prompt, count)


@pytest.mark.parametrize("prompt", ["", "Once upon a time", "The dragon was afraid of"])
def test_the_model_in_the_box_writes_the_same_hundred_tokens_in_llama_cpp(prompt, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    model, tokenizer = slm.load_model("stories")
    file = export_gguf("stories", tmp_path / "model.gguf", "f32")
    llama = llama_cpp.Llama(str(file), verbose=False, n_ctx=512, n_threads=1)
    ids = [tokenizer.eot_id, *tokenizer.encode(prompt)]
    theirs = [new for new, _ in zip(llama.generate(ids, temp=0.0), range(100))]
    assert theirs == greedy(model, ids, 100)


@pytest.mark.parametrize("type", ["q8_0", "q4_0"])
def test_quantized_types_are_smaller_and_close(folder, type):
    gguf = pytest.importorskip("gguf")
    file = export_gguf(folder, folder.parent / "model.gguf", type)
    whole = export_gguf(folder, folder.parent / "whole.gguf", "f32")
    sizes = [sum(int(x.n_bytes) for x in gguf.GGUFReader(f).tensors) for f in (file, whole)]
    assert sizes[0] < (0.3 if type == "q8_0" else 0.17) * sizes[1]
    for small, large in zip(gguf.GGUFReader(file).tensors, gguf.GGUFReader(whole).tensors):
        values = gguf.quants.dequantize(small.data, small.tensor_type)
        exact = large.data.reshape(values.shape)
        assert np.abs(values - exact).max() <= np.abs(exact).max() / (100 if type == "q8_0" else 6)


def test_an_ollama_modelfile_stands_beside_it(folder):
    pytest.importorskip("gguf")
    export_gguf(folder, folder.parent / "new" / "mine.gguf")
    text = (folder.parent / "new" / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith("FROM ./mine.gguf\n")
    assert 'PARAMETER stop "<|endoftext|>"' in text and "num_ctx 32" in text
    assert not list(folder.parent.glob("new/.*"))


def test_a_tilde_is_the_home_folder(random_model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    slm.save_model("~/model", random_model(), tokenizer)
    assert model_card("~/model") == tmp_path / "model" / "README.md"
    pytest.importorskip("gguf")
    assert export_gguf("~/model", "~/mine.gguf") == tmp_path / "mine.gguf"
    assert (tmp_path / "mine.gguf").exists()
    pytest.importorskip("onnxscript")
    assert export_onnx("~/model", "~/mine.onnx") == tmp_path / "mine.onnx"
    assert (tmp_path / "mine.onnx").exists()


def test_the_modelfile_of_another_model_is_not_replaced(folder, tmp_path, capsys):
    pytest.importorskip("gguf")
    own = "FROM ./mine.gguf\nSYSTEM You are a robot.\n"
    (tmp_path / "Modelfile").write_text(own, encoding="utf-8")
    for _ in range(2):
        export_gguf(folder, tmp_path / "new.gguf")
        assert (tmp_path / "Modelfile").read_text(encoding="utf-8") == own
        text = (tmp_path / "new.Modelfile").read_text(encoding="utf-8")
        assert text.startswith("FROM ./new.gguf\n")
        assert "new.Modelfile" in capsys.readouterr().out


def test_what_cannot_be_exported_is_refused_and_leaves_no_file(random_model, tokenizer, tmp_path):
    pytest.importorskip("gguf")
    folder = slm.save_model(tmp_path / "odd", random_model(d_ff=40), tokenizer)
    with pytest.raises(ValueError, match="multiples of 32"):
        export_gguf(folder, tmp_path / "out" / "x.gguf", "q8_0")
    with pytest.raises(ValueError, match="type must be one of f32, f16"):
        export_gguf(folder, tmp_path / "out" / "x.gguf", "q2_k")
    small = slm.save_model(tmp_path / "small", slm.quantize(random_model()), tokenizer)
    for export in (export_gguf, export_onnx):
        with pytest.raises(ValueError, match="quantized"):
            export(small, tmp_path / "out" / "x")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("export", "library"),
    [(export_gguf, "gguf"), (export_onnx, "onnx"), (export_onnx, "onnxscript")],
)
def test_without_an_optional_library_a_sentence_says_how_to_get_it(
    export, library, random_model, tokenizer, tmp_path, monkeypatch
):
    folder = slm.save_model(tmp_path, random_model(), tokenizer)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match="pip install"):
        export(folder, tmp_path / "x")


@pytest.mark.filterwarnings("ignore")  # the exporter's own, about its own parts
def test_onnxruntime_gives_our_logits_piece_by_piece(folder):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, _ = slm.load_model(folder)
    config = model.config
    ids = torch.randint(280, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(ids).numpy()
    errors = []
    for int8 in (False, True):
        file = export_onnx(folder, folder.parent / "model.onnx", int8=int8)
        session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
        shape = (config.n_layers, 3, 2 * config.n_kv_heads, 0, config.head_dim)
        past, logits = np.zeros(shape, np.float32), []
        for part in ids.split([7, 1, 1, 11], 1):
            new, past = session.run(["logits", "present"], {"ids": part.numpy(), "past": past})
            logits.append(new)
        errors.append(np.abs(np.concatenate(logits, 1) - expected).max())
        sizes = file.stat().st_size if not int8 else (sizes, file.stat().st_size)  # noqa: F821
    assert errors[0] < 1e-3 * np.abs(expected).max()
    assert errors[1] < 0.3 * np.abs(expected).max()
    assert sizes[1] < sizes[0]


def test_the_card_says_what_the_model_is_and_how_it_was_trained(folder):
    path = model_card(folder, title="Mine")
    assert path == folder / "README.md"
    text = path.read_text(encoding="utf-8")
    model, _ = slm.load_model(folder)
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert "# Mine" in text and "Not recorded." in text
    assert f"{sum(x.numel() for x in model.parameters()):,} parameters" in text
    history = {"steps": [{"step": 1200, "tokens": 5_000_000, "seconds": 600.0}]}
    history["evaluations"] = [{"bits_per_byte": 0.7654, "nats_per_token": 2.0}]
    (folder / "history.json").write_text(json.dumps(history), encoding="utf-8")
    text = model_card(folder).read_text(encoding="utf-8")
    assert "1,200 steps over 5,000,000 tokens, in 10 minutes." in text
    assert "0.765 bits per byte" in text
    assert "own words" in model_card(folder, training="own words").read_text(encoding="utf-8")


def test_pushing_makes_the_repository_and_uploads_all_but_the_training_state(folder, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    calls = []

    class Api:
        def create_repo(self, name, **how):
            calls.append((name, how))
            return "https://huggingface.co/" + name

        def upload_folder(self, **how):
            calls.append(how)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    address = push_to_hub(folder, "me/my-model", private=True)
    assert address == "https://huggingface.co/me/my-model"
    assert calls[0] == ("me/my-model", {"private": True, "exist_ok": True})
    assert (calls[1]["repo_id"], calls[1]["folder_path"]) == ("me/my-model", folder)
    assert calls[1]["ignore_patterns"] == ["training.safetensors"]
    assert "# my-model" in (folder / "README.md").read_text(encoding="utf-8")


class NetworkError(Exception):
    """As the network's libraries have them: of no class that the standard library knows."""


@pytest.mark.parametrize("error", [OSError("no token"), NetworkError("name not known\nat all")])
def test_an_upload_that_fails_says_what_to_do_in_one_sentence(folder, error, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    class Api:
        def create_repo(self, name, **how):
            raise error

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(ConnectionError, match="me/my-model cannot be uploaded: log in") as caught:
        push_to_hub(folder, "me/my-model")
    assert "\n" not in str(caught.value)
