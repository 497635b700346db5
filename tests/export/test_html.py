"""The story-teller in one file, as Python writes it. What it does in a browser is tested in
test_html_browser.py."""

import base64
import errno
import json
import re
import tomllib
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer

import slm
from slm.cli.main import main
from slm.export.html import export_html
from tests.pretrained import TOKENIZERS, publish, smollm_tokenizer

ROOT = Path(slm.__file__).parents[1]
SCALED = dict(rope_type="linear", factor=4.0, rope_theta=300.0)


class Page(HTMLParser):
    """An HTML file taken apart: its tags with their attributes, and its scripts by id."""

    def __init__(self, file):
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.tags = []
        self.texts = {}  # of each element with an id, or by name of the tag
        self._open = None
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self._open = attributes.get("id", tag)

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        self.texts[self._open] = self.texts.get(self._open, "") + data

    @property
    def settings(self):
        return json.loads(self.texts["settings"])

    @property
    def tensors(self):
        compressed = base64.b64decode(self.texts["weights"], validate=True)
        return safetensors.torch.load(zlib.decompress(compressed))


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    return Page(export_html("stories", tmp_path_factory.mktemp("page") / "story.html"))


def assert_same_tensors(tensors, model):
    expected = model.state_dict()
    assert set(tensors) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)


# How large it is, and in how many bits


def test_the_bundled_model_fits_into_five_megabytes_in_four_bits(bundled):
    assert len(bundled.source.encode()) < 5_000_000
    assert bundled.settings["bits"] == 4
    model, _ = slm.load_model("stories")
    assert_same_tensors(bundled.tensors, slm.quantize(model, 4))


def test_a_small_model_has_eight_bits_and_a_line_says_so(random_model, tokenizer, tmp_path, capsys):
    model = random_model(d_model=40, d_ff=50, tie_embeddings=False, n_kv_heads=2)
    folder = slm.save_model(tmp_path / "mine", model, tokenizer)
    file = slm.export_html(folder, tmp_path / "new" / "story.html")
    page = Page(file)
    assert_same_tensors(page.tensors, slm.quantize(model, 8))
    assert page.settings["name"] == "mine"
    assert page.settings["parameters"] == sum(weight.numel() for weight in model.parameters())
    size = file.stat().st_size / 1e6
    assert capsys.readouterr().out == f"{file} has {size:.1f} MB, with weights in 8 bits.\n"


def test_four_bits_are_taken_where_eight_would_be_too_large(
    random_model, tokenizer, tmp_path, capsys
):
    model = random_model(d_model=96, d_ff=208, n_layers=6)  # groups of 16 divide both
    folder = slm.save_model(tmp_path / "mine", model, tokenizer)
    file = tmp_path / "story.html"
    large = export_html(folder, file).stat().st_size / 1e6
    export_html(folder, file, max_megabytes=0.9 * large)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith(f"with weights in 4 bits (in 8 bits it would have {large:.1f} MB).")
    assert_same_tensors(Page(file).tensors, slm.quantize(model, 4, 16))


def test_one_that_is_quantized_already_stays_as_it_is(random_model, tokenizer, tmp_path):
    model = slm.quantize(random_model(), 4, 8)
    folder = slm.save_model(tmp_path / "small", model, tokenizer)
    assert_same_tensors(Page(export_html(folder, tmp_path / "story.html")).tensors, model)


@pytest.mark.parametrize("fields", [{}, {"d_ff": 51}])  # which has no groups for 4 bits
def test_one_that_is_too_large_is_refused_with_what_to_do(
    fields, random_model, tokenizer, tmp_path
):
    folder = slm.save_model(tmp_path / "mine", random_model(**fields), tokenizer)
    file = tmp_path / "story.html"
    file.write_text("mine")
    with pytest.raises(
        ValueError, match=r"above the limit of 0\.05 MB: export a smaller"
    ) as caught:
        export_html(folder, file, max_megabytes=0.05)
    assert file.read_text() == "mine"
    enough = float(re.search(r"max_megabytes to (\S+)\.$", str(caught.value))[1])
    assert export_html(folder, file, max_megabytes=enough) == file


def test_one_that_is_far_too_large_is_refused_before_it_is_quantized(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError

    monkeypatch.setattr("slm.export.html.quantize", refuse)
    with pytest.raises(ValueError, match=r"would be 4\.\d MB, above the limit of 2 MB"):
        export_html("stories", tmp_path / "story.html", max_megabytes=2)


# It needs nothing else


def test_nothing_is_fetched(bundled):
    addresses = {"src", "href", "action", "srcset", "data", "poster", "background"}
    assert not [tag for tag, attributes in bundled.tags if addresses & set(attributes)]
    visible = bundled.source.replace(bundled.texts["weights"], "")
    visible = visible.replace(bundled.texts["tokenizer"], "")
    assert not re.search(r"https?:|//\w+\.\w+|url\(|@import", visible)
    calls = r"\b(fetch|import|importScripts|XMLHttpRequest|WebSocket|sendBeacon|EventSource)\b *\("
    assert not re.search(calls, visible)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", visible)
    [policy] = [a["content"] for _, a in bundled.tags if "http-equiv" in a]
    assert policy.startswith("default-src 'none';")


def test_all_places_of_the_page_are_filled(bundled):
    assert "{{" not in bundled.source
    assert bundled.texts["title"] == "A story-teller"
    assert [a["lang"] for tag, a in bundled.tags if tag == "html"] == ["en"]


def test_what_looks_like_html_stays_text(random_model, tmp_path):
    text = "</script><script>alert(1)</script><!-- {{weights}} --> & so on. "
    tokenizer = slm.train_tokenizer(text * 20, 280)
    assert any("</" in token for token in tokenizer.pieces(range(280)))
    model = random_model(vocab_size=tokenizer.vocab_size)
    folder = slm.save_model(tmp_path / "<!-- {{weights}}", model, tokenizer)
    title = "</title><script>alert(2)</script> {{weights}} & Co"
    page = Page(export_html(folder, tmp_path / "story.html", title=title))
    ordinary = Page(export_html("stories", tmp_path / "ordinary.html"))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in ordinary.tags]
    assert page.texts["title"] == page.texts["h1"] == title
    assert page.settings["name"] == folder.name
    vocab = json.loads(page.texts["tokenizer"])["vocab"]
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert vocab == saved["model"]["vocab"]


def test_the_files_of_the_page_are_installed_with_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["slm"]
    installed = {path for pattern in patterns for path in (ROOT / "slm").glob(pattern)}
    parts = set((ROOT / "slm" / "export" / "storyteller").iterdir())
    assert len(parts) >= 7
    assert parts <= installed


# What is refused


def test_scaled_positions_are_refused(tmp_path):
    folder = publish(tmp_path, smollm_tokenizer(), rope_parameters=SCALED)
    with pytest.raises(ValueError, match="rotary positions are scaled"):
        export_html(folder, tmp_path / "out" / "story.html")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("llama-2", "s vocabulary lacks some of the 256 bytes"),
        ("llama-2 with Metaspace", "s vocabulary lacks some of the 256 bytes"),
        ("llama-3", " splits text as llama-bpe does"),
    ],
)
def test_a_tokenizer_that_the_page_would_not_imitate_is_refused(name, reason, tmp_path):
    folder = publish(tmp_path, TOKENIZERS[name]())
    with pytest.raises(ValueError, match=f"cannot imitate this model's tokenizer: it{reason}"):
        export_html(folder, tmp_path / "story.html")


def test_words_that_were_added_to_a_tokenizer_are_refused(tmp_path):
    folder = publish(tmp_path, smollm_tokenizer())
    inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
    content = json.loads(inner.to_str())
    content["added_tokens"][1]["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="added tokens that are not special"):
        export_html(folder, tmp_path / "story.html")


def test_there_must_be_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model at"):
        export_html(tmp_path, tmp_path / "story.html")


# Writing the file


def test_on_a_full_disk_the_old_file_stays_and_a_sentence_says_so(
    random_model, tokenizer, tmp_path, monkeypatch
):
    folder = slm.save_model(tmp_path / "model", random_model(), tokenizer)
    file = tmp_path / "story.html"
    file.write_text("mine")

    def refuse(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match=r"^\S+story.html cannot be written: the disk is full"):
        export_html(folder, file)
    assert file.read_text() == "mine"


def test_a_folder_in_the_place_of_the_file_is_named(random_model, tokenizer, tmp_path):
    folder = slm.save_model(tmp_path / "model", random_model(), tokenizer)
    with pytest.raises(OSError, match="a folder is where a file must be"):
        export_html(folder, folder)
    assert slm.load_model(folder)


def test_the_home_folder_is_found(random_model, tokenizer, tmp_path, monkeypatch):
    folder = slm.save_model(tmp_path / "model", random_model(), tokenizer)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert export_html(folder, "~/story.html") == tmp_path / "story.html"


def test_stories_are_stored_under_a_name_of_their_own_for_each_model(
    random_model, tokenizer, tmp_path
):
    fingerprints = []
    for seed in (1, 1, 2):
        folder = slm.save_model(tmp_path / str(seed), random_model(seed), tokenizer)
        fingerprints.append(Page(export_html(folder, tmp_path / "a.html")).settings["fingerprint"])
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_the_same_model_gives_the_same_file(random_model, tokenizer, tmp_path):
    folder = slm.save_model(tmp_path / "model", random_model(), tokenizer)
    first = export_html(folder, tmp_path / "a.html").read_bytes()
    assert export_html(folder, tmp_path / "a.html").read_bytes() == first


def test_the_command_writes_it(random_model, tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    slm.save_model("mine", random_model(), tokenizer)
    assert main(["export", "mine", "story.html", "--title", "Anna's stories"]) == 0
    assert capsys.readouterr().out.endswith("Wrote story.html: a double click opens it.\n")
    assert Page(Path("story.html")).texts["title"] == "Anna's stories"
    assert main(["export", "mine", "other.html", "--max-megabytes", "0.001"]) == 1
    assert "above the limit of 0.001 MB" in capsys.readouterr().err
    assert not Path("other.html").exists()
