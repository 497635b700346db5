"""Tokenizers of others, against what transformers makes of the same files."""

import json
import random

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from slm.stories.practice import practice_stories
from slm.tokenizer.pretrained import PretrainedTokenizer
from tests.pretrained import TOKENIZERS, edit_json, llama2_tokenizer, publish

TEXTS = [
    "",
    "Once upon a time",
    "It's  2 o'clock! 12345",
    "日本語 😀 é",
    "\n\n a\tb ",
    "  two",
    "a</s>b <|endoftext|>x",
    practice_stories(1)[0],
]


@pytest.fixture(scope="module", params=TOKENIZERS)
def folder(request, tmp_path_factory):
    return publish(tmp_path_factory.mktemp("model"), TOKENIZERS[request.param]())


@pytest.fixture
def sentencepiece(tmp_path):
    return publish(tmp_path, llama2_tokenizer())


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_texts_are_those_of_transformers(folder, text):
    theirs, ours = AutoTokenizer.from_pretrained(folder), PretrainedTokenizer(folder)
    ids = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids)
    assert "".join(ours.decode_stream(ids)) == theirs.decode(ids)
    end, other = ours.eot_id, ours.encode("b")
    assert ours.encode_many([text, "b"]).tolist() == [*ids, end, *other, end]


@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_what_follows_a_prompt_is_decoded_as_its_continuation(folder, text):
    theirs, ours = AutoTokenizer.from_pretrained(folder), PretrainedTokenizer(folder)
    ids = ours.encode(text)
    for place in range(1, len(ids)):
        beginning = theirs.decode(ids[:place])
        if beginning.endswith("\ufffd"):
            continue  # a prompt is whole characters
        continued = "".join(ours.decode_stream(ids[place:], ids[:place]))
        assert beginning + continued == theirs.decode(ids)


def test_whatever_is_drawn_a_stream_is_what_transformers_decodes(folder):
    theirs, ours = AutoTokenizer.from_pretrained(folder), PretrainedTokenizer(folder)
    generator = random.Random(0)
    for _ in range(100):
        ids = generator.choices(range(ours.vocab_size), k=30)
        assert "".join(ours.decode_stream(ids)) == theirs.decode(ids)


def test_no_piece_of_a_stream_holds_half_a_character(folder):
    ours = PretrainedTokenizer(folder)
    pieces = list(ours.decode_stream(ours.encode("日本語 😀 é")))
    assert len(pieces) > 2
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_stream_says_each_word_as_soon_as_it_is_there(folder):
    ours = PretrainedTokenizer(folder)
    given = []
    stream = ours.decode_stream(given.append(i) or i for i in ours.encode("Once upon a time"))
    assert next(stream).strip()
    assert len(given) == 1


def test_each_token_decoded_alone_has_its_space(folder):
    ours = PretrainedTokenizer(folder)
    pieces = ours.pieces(ours.encode("Once upon a time"))
    assert "".join(pieces).strip() == "Once upon a time"
    assert pieces[-1] == " time"


def test_the_bytes_of_half_a_character_are_shown(folder):
    ours = PretrainedTokenizer(folder)
    assert ours.pieces(ours.encode("日"))[-3:] == [r"\xe6", r"\x97", r"\xa5"]


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        (2, None, (2,)),
        ([2, 5, 7], None, (2, 5, 7)),
        (2, [7, 2], (2, 7)),
        (None, 7, (7,)),
        (..., None, (2,)),  # what transformers assumes of a Llama
    ],
)
def test_every_end_counts_those_of_generation_too(sentencepiece, config, generation, ends):
    edit_json(sentencepiece / "config.json", eos_token_id=config)
    edit_json(sentencepiece / "generation_config.json", eos_token_id=generation)
    ours = PretrainedTokenizer(sentencepiece)
    assert (ours.end_ids, ours.eot_id) == (ends, ends[0])


@pytest.mark.parametrize("end", ["</s>", True, 2.0, [2, "x"], -1, 659, 2**63])
def test_an_end_that_is_no_token_is_refused(sentencepiece, end):
    edit_json(sentencepiece / "config.json", eos_token_id=end)
    with pytest.raises(ValueError, match=r"eos_token_id|ends with the id"):
        PretrainedTokenizer(sentencepiece)


def test_without_an_end_or_a_tokenizer_a_sentence_says_so(sentencepiece):
    edit_json(sentencepiece / "config.json", eos_token_id=None)
    edit_json(sentencepiece / "generation_config.json", eos_token_id=...)
    with pytest.raises(ValueError, match="eos_token_id"):
        PretrainedTokenizer(sentencepiece)
    (sentencepiece / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        PretrainedTokenizer(sentencepiece)


def lengthen_prefix(content):
    content["model"]["continuing_subword_prefix"] = "y" * 50


def forget_special_tokens(content):
    content["post_processor"]["special_tokens"] = {}


@pytest.mark.parametrize("damage", [lengthen_prefix, forget_special_tokens])
def test_where_the_library_panics_a_sentence_says_that_the_tokenizer_is_damaged(
    sentencepiece, damage
):
    """A panic of Rust's is no Exception of Python's, and would pass all handlers by."""
    path = sentencepiece / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    damage(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^The tokenizer in .* is damaged: "):
        PretrainedTokenizer(sentencepiece)


def change_tokenizer(folder, change):
    inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
    change(inner)
    inner.save(str(folder / "tokenizer.json"))


def test_texts_are_neither_padded_nor_cut_off_whatever_the_file_says(sentencepiece):
    plain = PretrainedTokenizer(sentencepiece).encode("Once upon a time")
    change_tokenizer(sentencepiece, lambda inner: inner.enable_truncation(2))
    change_tokenizer(sentencepiece, lambda inner: inner.enable_padding(length=50))
    assert PretrainedTokenizer(sentencepiece).encode("Once upon a time") == plain


def test_a_token_for_padding_may_lie_beyond_the_models_table(sentencepiece):
    pad = AddedToken("[PAD]", special=True)
    change_tokenizer(sentencepiece, lambda inner: inner.add_special_tokens([pad]))
    ours = PretrainedTokenizer(sentencepiece)
    assert max(ours.encode("a [PAD] b")) < ours.vocab_size
    with pytest.raises(ValueError, match="No token has the id"):
        ours.decode([ours.vocab_size])


def test_any_other_token_beyond_it_is_refused(sentencepiece):
    change_tokenizer(sentencepiece, lambda inner: inner.add_tokens(["dragon"]))
    with pytest.raises(ValueError, match=r"'dragon' has the id 659, and the model has 659 tokens"):
        PretrainedTokenizer(sentencepiece)


def test_the_token_for_unknown_text_may_not_lie_beyond_it_either(sentencepiece):
    def change(inner):
        inner.add_special_tokens([AddedToken("[UNK]", special=True)])
        inner.model.unk_token = "[UNK]"

    change_tokenizer(sentencepiece, change)
    with pytest.raises(ValueError, match=r"'\[UNK\]' has the id 659"):
        PretrainedTokenizer(sentencepiece)


def test_the_digest_tells_the_ends_apart_that_decide_the_ids_of_stories(sentencepiece):
    before = PretrainedTokenizer(sentencepiece).digest
    edit_json(sentencepiece / "config.json", eos_token_id=0)
    assert PretrainedTokenizer(sentencepiece).digest != before


def test_it_knows_whether_a_beginning_is_added_by_itself(sentencepiece):
    assert PretrainedTokenizer(sentencepiece).adds_bos
    nothing = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    change_tokenizer(sentencepiece, lambda inner: setattr(inner, "post_processor", nothing))
    assert not PretrainedTokenizer(sentencepiece).adds_bos


def test_saved_it_names_a_token_for_padding_and_the_inputs_of_the_model(sentencepiece, tmp_path):
    edit_json(sentencepiece / "tokenizer_config.json", pad_token=..., model_input_names=...)
    PretrainedTokenizer(sentencepiece).save(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert saved["pad_token"] == "</s>"
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"  # which transformers 4 knows too
    assert saved["model_input_names"] == ["input_ids", "attention_mask"]
    theirs = AutoTokenizer.from_pretrained(tmp_path / "again")
    batch = theirs(["Once", "Once upon a time"], padding=True)
    assert [sum(row) for row in batch["attention_mask"]] == [2, 5]
    assert len(batch["input_ids"][0]) == len(batch["input_ids"][1])
    ours = PretrainedTokenizer(sentencepiece)
    assert theirs.decode(ours.encode("Once"), skip_special_tokens=True) == "Once"


def test_a_folder_that_cannot_be_written_is_named_with_the_mend(sentencepiece, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    sentence = r"file cannot be written: a file is where a folder must be: name another folder\.$"
    with pytest.raises(OSError, match=sentence):
        PretrainedTokenizer(sentencepiece).save(tmp_path / "file")
