"""llama.cpp reads a text of an exported model as the model's own tokenizer does."""

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

import slm
from slm.export.gguf import export_gguf
from slm.stories.practice import practice_stories
from tests.pretrained import TOKENIZERS, edit_json, llama3_tokenizer, publish, smollm_tokenizer

pytest.importorskip("gguf")

TEXTS = [
    *practice_stories(5),
    " ",
    "It's  2 o'clock! 12345 I'LL",
    "日本語 😀 é",
    "\n\n a\tb ",
    "  two",
    "a\r\nb  \n c",
    "</s> hi <s> <|endoftext|>",
    "▁a",
]
FLOAT32_CACHE = dict(type_k=0, type_v=0)  # as ours: llama.cpp's own choice has 16 bits
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=300.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)


def llama_cpp(file, **settings):
    library = pytest.importorskip("llama_cpp")
    return library.Llama(str(file), verbose=False, n_ctx=128, n_threads=1, **settings)


@pytest.mark.parametrize("name", ["llama-2", "llama-3", "smollm"])
def test_llama_cpp_reads_the_same_ids(name, tmp_path):
    folder = publish(tmp_path, TOKENIZERS[name]())
    _, tokenizer = slm.load_model(folder)
    llama = llama_cpp(export_gguf(folder, tmp_path / "model.gguf", "f32"), vocab_only=True)
    for text in TEXTS:
        ids = llama.tokenize(text.encode(), add_bos=True, special=False)
        assert ids == [tokenizer.bos_id, *tokenizer.encode(text)]
    assert llama.token_eos() == tokenizer.eot_id
    end = tokenizer.decode([tokenizer.eot_id])
    assert f'PARAMETER stop "{end}"' in (tmp_path / "Modelfile").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "rope",
    [None, dict(rope_type="linear", factor=4.0, rope_theta=300.0), LLAMA3_ROPE],
    ids=str,
)
def test_llama_cpp_computes_the_same_with_scaled_positions(rope, tmp_path):
    folder = publish(tmp_path, llama3_tokenizer(), rope_parameters=rope)
    model, _ = slm.load_model(folder)
    llama = llama_cpp(
        export_gguf(folder, tmp_path / "model.gguf", "f32"), logits_all=True, **FLOAT32_CACHE
    )
    ids = torch.randint(500, (1, 100), generator=torch.Generator().manual_seed(0))
    llama.eval(ids[0].tolist())
    theirs = torch.tensor(llama.scores[:100])
    with torch.no_grad():
        torch.testing.assert_close(theirs, model(ids)[0], rtol=1e-3, atol=1e-3)


def test_several_ends_are_told(tmp_path):
    import gguf

    folder = publish(tmp_path, llama3_tokenizer(), eos_token_id=[501, 502])
    reader = gguf.GGUFReader(export_gguf(folder, tmp_path / "model.gguf"))
    assert reader.get_field("tokenizer.ggml.eos_token_id").contents() == 501
    assert reader.get_field("tokenizer.ggml.eot_token_id").contents() == 502
    edit_json(folder / "config.json", eos_token_id=[501, 502, 500, 1])
    with pytest.raises(ValueError, match="4 of its tokens end a text"):
        export_gguf(folder, tmp_path / "model.gguf")


def another_split(inner):
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\W"), "isolated")


def another_normalizer(inner):
    inner.normalizer = normalizers.Lowercase()


def a_prefix(inner):
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def words(inner):
    inner.model = models.WordLevel(inner.get_vocab(), "!")


@pytest.mark.parametrize("change", [another_split, another_normalizer, a_prefix, words])
def test_a_tokenizer_that_llama_cpp_would_not_imitate_is_refused(change, tmp_path):
    folder = publish(tmp_path / "a", smollm_tokenizer())
    inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
    change(inner)
    inner.save(str(folder / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"llama\.cpp cannot imitate this model's tokenizer"):
        export_gguf(folder, tmp_path / "out" / "model.gguf")
    assert not list(tmp_path.glob("out/*"))


def test_one_that_puts_spaces_as_metaspace_does_is_refused(tmp_path):
    folder = publish(tmp_path, TOKENIZERS["llama-2 with Metaspace"]())
    with pytest.raises(ValueError, match="splits text in another way"):
        export_gguf(folder, tmp_path / "model.gguf")


ADDED_TEXTS = ["a dragon b", "a  dragon  b", "dragonfly", "xdragony", " dragon", "dragon", "<a>"]


@pytest.mark.parametrize(
    ("name", "rules"),
    [("smollm", {}), ("llama-3", {}), ("llama-2", dict(normalized=False))],
    ids=str,
)
def test_tokens_that_were_added_are_found_in_the_same_places(name, rules, tmp_path):
    theirs = TOKENIZERS[name]()
    theirs.add_tokens([AddedToken("dragon", special=False, **rules)])
    folder = publish(tmp_path, theirs)
    _, tokenizer = slm.load_model(folder)
    llama = llama_cpp(export_gguf(folder, tmp_path / "model.gguf", "f32"), vocab_only=True)
    for text in ADDED_TEXTS:
        ids = llama.tokenize(text.encode(), add_bos=True, special=False)
        assert ids == [tokenizer.bos_id, *tokenizer.encode(text)]


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("smollm", dict(lstrip=True)),
        ("smollm", dict(rstrip=True)),
        ("llama-3", dict(single_word=True)),
        ("llama-2", {}),  # it is looked for in a text whose spaces have been replaced
    ],
    ids=str,
)
def test_tokens_that_llama_cpp_would_find_elsewhere_are_refused(name, rules, tmp_path):
    theirs = TOKENIZERS[name]()
    theirs.add_tokens([AddedToken("dragon", special=False, **rules)])
    with pytest.raises(ValueError, match="added token 'dragon'"):
        export_gguf(publish(tmp_path, theirs), tmp_path / "model.gguf")
