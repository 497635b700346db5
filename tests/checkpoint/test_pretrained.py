"""Models of others: each loads and computes what transformers computes, or is refused."""

import json
import shutil
from itertools import pairwise

import pytest
import safetensors.torch
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, pipeline

import slm
from slm.analysis.report_measurements import sample_stories
from slm.checkpoint import hub as hub_models
from slm.checkpoint.hub import fetch_model
from slm.checkpoint.llama_format import from_llama_config
from slm.finetuning.replay import ReplayBatches
from slm.generation.decoder import IncrementalDecoder
from slm.generation.text_generation import before_end, generate_ids
from slm.settings import FineTuneConfig
from slm.stories.practice import practice_stories
from tests.pretrained import TOKENIZERS, edit_json, llama2_tokenizer, llama3_tokenizer, publish

LLAMA3_ROPE = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("model"), llama2_tokenizer())


@pytest.fixture
def folder(published, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(published, tmp_path / "model")


def same_logits(folder, length=100):
    """Ours and transformers', far enough into the context for its positions to matter."""
    model, _ = slm.load_model(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (2, length), generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)
    return model


@pytest.mark.parametrize("name", TOKENIZERS)
def test_logits_are_those_of_transformers(name, tmp_path):
    same_logits(publish(tmp_path, TOKENIZERS[name]()))


@pytest.mark.parametrize(
    "shape",
    [
        dict(hidden_size=48, num_attention_heads=4),  # heads of 12
        dict(hidden_size=12, num_attention_heads=6, num_key_value_heads=3),  # of 2
        dict(num_attention_heads=1, num_key_value_heads=1),
        dict(num_key_value_heads=1),  # one head of keys and values for all
        dict(num_key_value_heads=4),
        dict(vocab_size=704),  # rows without a token
        dict(rms_norm_eps=1e-2, tie_word_embeddings=True),
    ],
    ids=str,
)
def test_logits_are_those_of_transformers_in_whatever_shape(shape, tmp_path):
    same_logits(publish(tmp_path, llama3_tokenizer(), **shape))


@pytest.mark.parametrize("numbers", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_all_kinds_of_numbers_load_as_transformers_loads_them(numbers, folder):
    weights = AutoModelForCausalLM.from_pretrained(folder, dtype=numbers)
    weights.save_pretrained(folder)
    same_logits(folder)


def test_whatever_the_library_writes_about_a_plain_llama_is_known():
    content = json.loads(LlamaConfig().to_json_string(use_diff=False))
    assert from_llama_config(content).d_model == content["hidden_size"]


@pytest.mark.parametrize("prompt", ["Once upon a time", "The end.", ""])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_stories_are_those_of_transformers_streamed_and_together(name, prompt, tmp_path):
    folder = publish(tmp_path, TOKENIZERS[name]())
    model, tokenizer = slm.load_model(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.bos_id, *words(prompt, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        written = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=12)[0]
    expected = words.decode(written[1:])
    settings = dict(temperature=0, max_new_tokens=12)
    assert slm.generate(model, tokenizer, prompt, **settings) == expected
    assert "".join(slm.stream(model, tokenizer, prompt, **settings)) == expected
    assert slm.generate(model, tokenizer, [prompt], n=2, **settings) == [expected] * 2


def test_fine_tuning_reads_stories_that_begin_as_the_models_texts_do(folder, tmp_path):
    _, tokenizer = slm.load_model(folder)
    stories = [story[:12] for story in practice_stories(6)]  # several in a row
    batches = ReplayBatches(stories[:4], stories[4:], tokenizer, 32, FineTuneConfig(batch_size=4))
    inputs, targets = next(batches)
    assert inputs[:, 0].tolist() == [tokenizer.bos_id] * 4
    for row in targets.tolist():
        after_an_end = [later for i, later in pairwise(row) if i == tokenizer.eot_id]
        assert set(after_an_end) == {tokenizer.bos_id}
    assert tokenizer.decode(inputs[0, 1:6].tolist())[:3] in {story[:3] for story in stories}


def test_each_of_several_ends_ends_a_story(tmp_path):
    folder = publish(tmp_path, llama3_tokenizer())
    model, tokenizer = slm.load_model(folder)
    settings = dict(temperature=0, max_new_tokens=20)
    story = slm.generate(model, tokenizer, "Once", **settings)
    ids = tokenizer.encode(story)
    drawn = next(i for i in ids[4:] if ids.count(i) == 1)
    edit_json(folder / "generation_config.json", eos_token_id=[501, drawn])
    model, tokenizer = slm.load_model(folder)
    shorter = tokenizer.decode(ids[: ids.index(drawn)])
    assert slm.generate(model, tokenizer, "Once", **settings) == shorter
    assert slm.generate(model, tokenizer, "Once", n=2, **settings) == [shorter] * 2
    stories, ended = sample_stories(model, tokenizer, 2, **settings)
    assert len(stories) == 2
    assert ended in (0.0, 1.0)


def test_the_server_writes_the_same_stories_with_their_spaces_and_ends(tmp_path):
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from slm.serving.api import create_app

    folder = publish(tmp_path, llama2_tokenizer())
    model, tokenizer = slm.load_model(folder)
    settings = dict(temperature=0, max_new_tokens=7)
    expected = slm.generate(model, tokenizer, "Once upon a time", **settings)
    asked = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 7, "echo": True}
    with TestClient(create_app(model, tokenizer, "small")) as client:
        [choice] = client.post("/v1/completions", json=asked).json()["choices"]
    assert choice["text"] == expected
    prompt = [tokenizer.bos_id, *tokenizer.encode("Once upon a time")]
    sampling = slm.SamplingConfig(**settings)
    drawn = [i for [i] in generate_ids(IncrementalDecoder(model), [prompt], sampling, end_ids=())]
    edit_json(folder / "config.json", eos_token_id=[2, drawn[5]])
    model, tokenizer = slm.load_model(folder)
    with TestClient(create_app(model, tokenizer, "small")) as client:
        [choice] = client.post("/v1/completions", json=asked).json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == slm.generate(model, tokenizer, "Once upon a time", **settings)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_however_wild_a_story_the_servers_text_is_what_transformers_decodes(name, stream, tmp_path):
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from slm.serving.api import create_app

    folder = publish(tmp_path, TOKENIZERS[name]())
    model, tokenizer = slm.load_model(folder)
    sampling = slm.SamplingConfig(temperature=5, min_p=0, seed=0, max_new_tokens=60)
    prompt = tokenizer.encode("Once upon a time")
    steps = generate_ids(
        IncrementalDecoder(model), [[tokenizer.bos_id, *prompt]], sampling, tokenizer.end_ids
    )
    ids = list(before_end((new_id for [new_id] in steps), tokenizer.eot_id))
    expected = AutoTokenizer.from_pretrained(folder).decode([*prompt, *ids])
    assert "\ufffd" in expected  # it is full of broken characters
    asked = {"temperature": 5, "min_p": 0, "seed": 0, "max_tokens": 60, "echo": True}
    with TestClient(create_app(model, tokenizer)) as client:
        for given in ("Once upon a time", prompt):
            body = asked | {"prompt": given, "stream": stream}
            answer = client.post("/v1/completions", json=body)
            parts = [answer.text] if not stream else answer.text.split("data: ")[1:-1]
            assert "".join(json.loads(part)["choices"][0]["text"] for part in parts) == expected


@pytest.mark.parametrize("written_by", [4, 5])
@pytest.mark.parametrize(
    "rope",
    [
        dict(rope_type="linear", factor=4.0),
        LLAMA3_ROPE,
        dict(rope_type="default"),
        None,
    ],
    ids=str,
)
def test_scaled_positions_are_those_of_transformers(written_by, rope, folder, tmp_path):
    if written_by == 4:
        edit_json(folder / "config.json", rope_parameters=..., rope_scaling=rope, rope_theta=300.0)
    elif rope:
        parameters = rope | {"rope_theta": 300.0}
        edit_json(folder / "config.json", rope_parameters=parameters)
    model = same_logits(folder)
    again = slm.save_model(tmp_path / "again", *slm.load_model(folder))
    assert same_logits(again).config == model.config


def test_the_oldest_way_to_write_scaled_positions(folder):
    scaling = {"type": "linear", "factor": 2.0}
    edit_json(folder / "config.json", rope_parameters=..., rope_scaling=scaling)
    same_logits(folder)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "yarn", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": 0.0},
        {"rope_type": "linear", "factor": "2"},
        {"rope_type": "linear", "factor": 2.0, "mystery": 1},
        {"rope_type": ["linear"], "factor": 2.0},
        {"rope_type": "default", "factor": 2.0},
        {"rope_type": "default", "partial_rotary_factor": 0.5},
        LLAMA3_ROPE | {"high_freq_factor": 1.0},
        "linear",
        [1],
    ],
    ids=str,
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_other_scaled_positions_are_refused(key, rope, folder):
    edit_json(folder / "config.json", **({"rope_parameters": ...} | {key: rope}))
    with pytest.raises(ValueError, match=r"rotary|factor"):
        slm.load_model(folder)


def test_two_that_contradict_each_other_are_refused(folder):
    scaling = {"rope_type": "linear", "factor": 2.0}
    edit_json(folder / "config.json", rope_scaling=scaling)
    with pytest.raises(ValueError, match="contradict"):
        slm.load_model(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantization_config", {"quant_method": "bitsandbytes"}),
        ("sliding_window", 64),
        ("use_sliding_window", True),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("hidden_act", "gelu"),
        ("partial_rotary_factor", 0.5),
        ("rope_interleaved", True),
        ("architectures", ["LlamaForSequenceClassification"]),
        ("is_encoder_decoder", True),
        ("head_dim", 16),
        ("auto_map", {"AutoModel": "code.Model"}),
        ("logits_scaling", 2.0),
        ("something_new", False),
        ("model_type", "mistral"),
        ("quantization", {"bits": 8}),
        ("max_position_embeddings", 2**40),
        ("rope_theta", 1e-300),
    ],
)
def test_a_setting_that_would_change_the_model_is_refused_by_its_name(key, value, folder):
    if key == "rope_theta":
        edit_json(folder / "config.json", rope_parameters=...)
    edit_json(folder / "config.json", **{key: value})
    with pytest.raises(ValueError, match=key if key != "quantization" else "model_type"):
        slm.load_model(folder)


def test_settings_that_say_nothing_new_change_nothing(folder):
    harmless = {
        "head_dim": None,
        "pretraining_tp": 1,
        "rope_interleaved": False,
        "is_llama_config": True,
        "transformers.js_config": {"dtype": "q4"},
        "sliding_window": None,
        "use_sliding_window": False,
        "max_window_layers": 2,
        "layer_types": ["full_attention", "full_attention"],
        "torch_dtype": "float8_e4m3fn",
        "something_new": None,
        "hidden_act": ...,
        "attention_bias": ...,
        "architectures": ...,
        "use_cache": False,
    }
    edit_json(folder / "config.json", **harmless)
    same_logits(folder)


def test_shards_load_as_the_whole_does(folder):
    whole, _ = slm.load_model(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    theirs.save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert not (folder / "model.safetensors").exists()
    model, _ = slm.load_model(folder)
    for name, weight in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    next(iter(folder.glob("model-*.safetensors"))).unlink()
    with pytest.raises(FileNotFoundError, match="model-"):
        slm.load_model(folder)


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"weight_map": 3}',
        b'{"weight_map": {}}',
        b'{"weight_map": {"a": 3}}',
        b'{"weight_map": {"a": "../model.safetensors"}}',
    ],
    ids=lambda index: index[:40].decode(),
)
def test_a_damaged_index_of_shards_is_refused(index, folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(ValueError, match="index"):
        slm.load_model(folder)


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    change(weights)
    safetensors.torch.save_file(weights, path, {"format": "pt"})


def test_a_model_with_one_table_may_bring_it_twice_but_not_another(
    random_model, tokenizer, tmp_path
):
    model = random_model()
    slm.save_model(tmp_path, model, tokenizer)
    table = model.model.embed_tokens.weight.detach()
    change_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": table.clone()}))
    again, _ = slm.load_model(tmp_path)
    assert torch.equal(again(torch.arange(5)[None]), model(torch.arange(5)[None]))
    change_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": table + 1}))
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        slm.load_model(tmp_path)


def test_old_files_that_hold_the_rotary_frequencies_load(folder):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_weights(folder, lambda weights: weights.update({name: torch.ones(4)}))
    same_logits(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(number, folder, random_model, tokenizer):
    name = "model.layers.1.mlp.up_proj.weight"
    change_weights(folder, lambda weights: weights[name].view(-1)[7].fill_(number))
    with pytest.raises(ValueError, match=rf"{name} hold numbers that are NaN or infinite"):
        slm.load_model(folder)
    model = random_model()
    with torch.no_grad():
        model.model.norm.weight[3] = number
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        slm.save_model(folder.parent / "new", model, tokenizer)
    assert not (folder.parent / "new").exists()


def test_a_weight_that_computing_would_make_infinite_is_refused_by_name(folder):
    name = "model.layers.1.mlp.up_proj.weight"
    change_weights(folder, lambda weights: weights[name].view(-1)[7].fill_(1e30))
    with pytest.raises(ValueError, match=rf"{name} hold a number as large as 1e\+30"):
        slm.load_model(folder)


def test_a_weight_too_large_for_16_bits_is_not_saved_as_infinity(random_model, tokenizer, tmp_path):
    model = random_model()
    with torch.no_grad():
        model.model.norm.weight[3] = 1e6
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        slm.save_model(tmp_path / "half", model, tokenizer, torch.float16)
    slm.save_model(tmp_path / "whole", model, tokenizer)


@pytest.mark.parametrize(
    "absurd",
    [
        {"num_hidden_layers": 10**9},
        {"hidden_size": 10**8, "head_dim": None},
        {"intermediate_size": 10**12},
        {"vocab_size": 2**62},
        {"num_attention_heads": 2**63},
        {"num_hidden_layers": 10**30},
        {"max_position_embeddings": 10**15},
    ],
    ids=str,
)
def test_absurd_sizes_are_refused_before_memory_is_taken(absurd, folder):
    edit_json(folder / "config.json", **absurd)
    with pytest.raises(ValueError, match="damaged or of another kind"):
        slm.load_model(folder)


def test_json_that_is_nested_without_end_is_refused(folder):
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
        with pytest.raises(ValueError, match="damaged or of another kind"):
            slm.load_model(folder)
        (folder / name).write_bytes(content)


def test_it_writes_is_evaluated_and_saved_like_our_own(folder, tmp_path):
    model, tokenizer = slm.load_model(folder)
    story = slm.generate(model, tokenizer, "Once", max_new_tokens=10, seed=0)
    assert story.startswith("Once")
    assert slm.evaluate(model, tokenizer, ["A cat."]).tokens == len(tokenizer.encode("A cat.")) + 1
    slm.save_model(tmp_path / "again", model, tokenizer)
    again, words = slm.load_model(tmp_path / "again")
    assert (words.bos_id, words.end_ids) == (tokenizer.bos_id, tokenizer.end_ids)
    assert slm.generate(again, words, "Once", max_new_tokens=10, seed=0) == story


def test_several_ends_and_scaled_positions_survive_saving(tmp_path):
    folder = publish(
        tmp_path / "a", llama3_tokenizer(), eos_token_id=[501, 502], rope_parameters=LLAMA3_ROPE
    )
    model, tokenizer = slm.load_model(folder)
    slm.save_model(tmp_path / "b", model, tokenizer)
    same_logits(tmp_path / "b")
    again, words = slm.load_model(tmp_path / "b")
    assert words.end_ids == (501, 502)
    assert again.config == model.config
    generation = json.loads((tmp_path / "b" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [501, 502]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_transformers_puts_one_beginning_before_a_prompt_of_a_saved_folder(name, tmp_path):
    folder = publish(tmp_path / "a", TOKENIZERS[name]())
    model, tokenizer = slm.load_model(folder)
    slm.save_model(tmp_path / "b", model, tokenizer)
    write = pipeline("text-generation", str(tmp_path / "b"))
    prompt = (write.prefix or "") + "Once upon"
    ids = write.tokenizer(prompt)["input_ids"]
    assert ids == [tokenizer.bos_id, *tokenizer.encode("Once upon")]
    _, words = slm.load_model(tmp_path / "b")
    assert words.encode("Once upon") == tokenizer.encode("Once upon")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["ours", "llama-2", "llama-3"])
def test_transformers_writes_two_stories_at_once_from_a_saved_folder(
    name, random_model, tokenizer, tmp_path
):
    if name == "ours":
        folder = slm.save_model(tmp_path / "a", random_model(context_length=64), tokenizer)
    else:
        folder = publish(tmp_path / "a", TOKENIZERS[name]())
    slm.save_model(tmp_path / "b", *slm.load_model(folder))
    write = pipeline("text-generation", str(tmp_path / "b"))
    write.tokenizer.padding_side = "left"
    settings = dict(do_sample=False, max_new_tokens=8)
    prompts = ["Once", "Once upon a time there"]
    together = write(prompts, batch_size=2, **settings)
    alone = [write([prompt], **settings)[0] for prompt in prompts]
    assert together == alone


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
            raise LocalEntryNotFoundError("not downloaded")
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
    half = hub_models.MAX_BYTES // 2 + 1
    api.files = [file(f"model-0000{i}-of-00002.safetensors", half) for i in (1, 2)]
    with pytest.raises(ValueError, match=r"2\.0 GB of weights"):
        fetch_model("somebody/large-in-shards")
    api.files = [file("pytorch_model.bin", 10)]
    with pytest.raises(ValueError, match=r"no safetensors"):
        fetch_model("somebody/old")


class NetworkError(Exception):
    """As the network's libraries have them: of no class that the standard library knows."""


@pytest.mark.parametrize("error", [OSError("no route"), NetworkError("name not known\nat all")])
def test_without_a_network_one_sentence_says_so(error, hub, monkeypatch):
    def refuse(self, name, files_metadata):
        raise error

    monkeypatch.setattr(hub[0], "model_info", refuse)
    with pytest.raises(ConnectionError, match="no folder runs/nothing, and the hub") as caught:
        fetch_model("runs/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["runs/my model", "runs/--", "runs/a..b"])
def test_a_name_that_no_model_can_have_is_a_missing_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        slm.load_model(name)


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match="There is no model at"):
        slm.load_model("runs/mien")
    assert hub[1] == []


def test_a_loaded_model_knows_its_name_for_an_adapter_to_name_its_base(
    hub, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert slm.load_model("somebody/small-llama")[0].name_or_path == "somebody/small-llama"
    assert slm.load_model("model")[0].name_or_path == str(folder.resolve())
