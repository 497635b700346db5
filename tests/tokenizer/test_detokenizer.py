import json
import random

import pytest
from transformers import AutoTokenizer

from slm.tokenizer.detokenizer import MAX_PENDING, IncrementalDetokenizer
from slm.tokenizer.pretrained import PretrainedTokenizer
from tests.pretrained import TOKENIZERS, publish

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


@pytest.fixture(scope="module", params=TOKENIZERS)
def published(request, tmp_path_factory):
    """Tokenizers as Llama 2's, Llama 3's and SmolLM's: ours and transformers' of the same files."""
    folder = publish(tmp_path_factory.mktemp("model"), TOKENIZERS[request.param]())
    return PretrainedTokenizer(folder), AutoTokenizer.from_pretrained(folder)


def random_ids(tokenizer, generator, count=30):
    """Mostly the bytes of characters beyond ASCII, whole and broken; and tokens of all kinds."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    broken = [i for i, piece in enumerate(pieces) if piece.startswith("\\x")]
    whole = tokenizer.encode("日本語 😀 é")
    ids = []
    while len(ids) < count:
        ids += generator.choice(
            [generator.choices(broken, k=3), [generator.randrange(len(pieces))], whole]
        )
    return ids[:count]


def test_whatever_is_drawn_pieces_join_to_what_transformers_decodes(published):
    ours, theirs = published
    generator = random.Random(0)
    for _ in range(100):
        ids = random_ids(ours, generator)
        _, pieces = decoded(ours, ids)
        assert "".join(pieces) == theirs.decode(ids)
        assert "".join(ours.decode_stream(ids)) == theirs.decode(ids)


def test_after_a_prompt_of_whole_characters_pieces_go_on_as_transformers_does(published):
    ours, theirs = published
    generator = random.Random(1)
    for _ in range(100):
        prompt = [*random_ids(ours, generator), *ours.encode("a cat")]
        ids = random_ids(ours, generator)
        detokenizer = IncrementalDetokenizer(ours)
        before = [detokenizer.add(token_id) for token_id in prompt]
        before.append(detokenizer.flush_whole())
        assert "".join(before) == theirs.decode(prompt)
        story = [detokenizer.add(token_id) for token_id in ids]
        story.append(detokenizer.flush())
        assert "".join([*before, *story]) == theirs.decode([*prompt, *ids])


def test_a_prompt_may_end_inside_a_character_which_the_story_completes(published):
    ours, _ = published
    ids = ours.encode("a 日")
    detokenizer = IncrementalDetokenizer(ours)
    before = "".join(detokenizer.add(token_id) for token_id in ids[:-1]) + detokenizer.flush_whole()
    assert before == "a "[: len(before)]
    assert before + detokenizer.add(ids[-1]) + detokenizer.flush() == "a 日"


def test_long_runs_of_broken_bytes_are_decoded_as_a_whole_but_not_held_back_for_ever(tokenizer):
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    broken = [i for i, piece in enumerate(pieces) if piece.startswith("\\x")]
    generator = random.Random(2)
    for _ in range(100):
        ids = generator.choices(broken, k=60)
        _, given = decoded(tokenizer, ids)
        assert "".join(given) == tokenizer.decode(ids)
        silent = "".join("." if piece else " " for piece in given)
        assert " " * (MAX_PENDING + 1) not in silent


def test_a_character_is_whole_that_begins_where_many_broken_bytes_end(tokenizer):
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    lone = pieces.index(r"\x80")
    for count in range(1, 3 * MAX_PENDING):
        _, given = decoded(tokenizer, [lone] * count + tokenizer.encode("😊"))
        assert "".join(given) == "\ufffd" * count + "😊"


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
