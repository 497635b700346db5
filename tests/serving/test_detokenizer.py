import json

import pytest

from slm.serving.detokenizer import IncrementalDetokenizer
from slm.tokenizer.pretrained import PretrainedTokenizer

TEXTS = [
    "Once upon a time there was a cat.",
    "  two spaces, and a line\n\nor two ",
    "a 😊 b 👩‍👩‍👧‍👦🇺🇦😊😊😊 café 東京",
    "",
]


def decoded(tokenizer, ids, read=0):
    """The text of `ids` from the `read`th on, as it comes token by token."""
    detokenizer = IncrementalDetokenizer(tokenizer)
    before = "".join(detokenizer.add(token_id) for token_id in ids[:read])
    pieces = [detokenizer.add(token_id) for token_id in ids[read:]]
    return before, [*pieces, detokenizer.flush()]


@pytest.fixture
def sentencepiece(tmp_path):
    """A tokenizer as Llama 2's: words begin with "▁", which becomes a space, but not at the start
    of a text; what it does not know is spelt in bytes."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, normalizers

    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for character in "▁abcdefghijklmnopqrstuvwxyzOT.,":
        vocab[character] = len(vocab)
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a"), ("c", "a"), ("ca", "t")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True)
    )
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    inner.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": len(vocab)}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return PretrainedTokenizer(tmp_path), inner


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_of_a_byte_level_tokenizer(tokenizer, text):
    ids = tokenizer.encode(text)
    for read in range(len(ids) + 1):
        before, pieces = decoded(tokenizer, ids, read)
        assert before + "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_of_a_sentencepiece_tokenizer(sentencepiece, text):
    foreign, inner = sentencepiece
    ids = foreign.encode(text)
    whole = inner.decode(ids, skip_special_tokens=False)
    for read in range(len(ids) + 1):
        before, pieces = decoded(foreign, ids, read)
        assert before + "".join(pieces) == whole
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_space_between_prompt_and_story_is_kept(sentencepiece):
    foreign, _ = sentencepiece
    ids = foreign.encode("a cat")
    before, pieces = decoded(foreign, [*ids, *foreign.encode("the cat")], read=len(ids))
    assert before == "a cat"
    assert "".join(pieces) == " the cat"


def test_half_a_character_at_the_end_is_shown_as_such(tokenizer):
    ids = tokenizer.encode("a 😊")
    _, pieces = decoded(tokenizer, ids[:-1])
    assert "".join(pieces) == tokenizer.decode(ids[:-1])
    assert "\ufffd" in pieces[-1]


def test_bytes_that_never_make_a_character_are_not_held_back_for_ever(tokenizer):
    [broken] = [i for i in range(256) if tokenizer.pieces([i]) == [r"\x80"]]
    _, pieces = decoded(tokenizer, [broken] * 30)
    assert pieces.count("") < 29
    assert set("".join(pieces)) == {"\ufffd"}


def test_a_token_inside_a_character_begins_where_the_character_does(tokenizer):
    detokenizer, offsets = IncrementalDetokenizer(tokenizer), []
    ids = tokenizer.encode("é😊!")
    for token_id in ids:
        offsets.append(detokenizer.length)
        detokenizer.add(token_id)
    assert len(ids) == 7  # two bytes, four bytes, one
    assert offsets == [0, 0, 1, 1, 1, 1, 2]


def test_a_copy_goes_on_by_itself(tokenizer):
    first = IncrementalDetokenizer(tokenizer)
    smile = tokenizer.encode("😊")
    for token_id in smile[:2]:
        first.add(token_id)
    second = first.copy()
    assert "".join(first.add(token_id) for token_id in smile[2:]) == "😊"
    assert "".join(second.add(token_id) for token_id in smile[2:]) == "😊"
    assert (first.length, second.length) == (1, 1)
