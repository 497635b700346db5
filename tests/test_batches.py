import json
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from slm.batches import Batches, digest, pack
from slm.practice import practice_stories
from slm.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer, train_tokenizer

STORIES = [*practice_stories(20), f"Zoë said “{END_OF_TEXT}” 🦊 twice.", "a", ""]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer()


def kept(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def toy(*lengths: int) -> tuple[np.ndarray, list[list[int]]]:
    """Packed stories of these lengths; all their ids differ, and 0 stands between them."""
    ids = iter(range(1, 10_000))
    stories = [list(islice(ids, length)) for length in lengths]
    return np.array([0, *(i for story in stories for i in [*story, 0])], np.uint16), stories


def rows(batches: Batches, count: int) -> list[list[int]]:
    """The next batches' rows, each with the target that goes beyond it."""
    pairs = [pair for _ in range(count) for pair in zip(*next(batches), strict=True)]
    return [[*x.tolist(), y[-1].item()] for x, y in pairs]


def split(row: list[int]) -> list[list[int]]:
    """A row's stories; the last one is what the row has room for."""
    parts = [[]]
    for i in row[1:]:
        parts.append([]) if i == 0 else parts[-1].append(i)
    return parts


# Packing


def test_packed_stories_have_end_of_text_before_the_first_and_after_each(tokenizer):
    encode, eot = tokenizer.encoding.encode_ordinary, tokenizer.encoding.eot_token
    expected = [eot] + [i for story in STORIES for i in [*encode(story), eot]]
    packed = pack(STORIES, tokenizer)
    assert packed.tolist() == expected
    assert (packed == eot).sum() == len(STORIES) + 1


@pytest.mark.parametrize(("pairs", "bits"), [(65_279, 16), (65_280, 32)])
def test_ids_take_16_bits_as_long_as_the_vocabulary_fits(pairs, bits):
    singles = [bytes([i]) for i in range(256)]
    doubles = [a + b for a in singles for b in singles if a + b != b"Hi"]
    ranks = {token: i for i, token in enumerate([*singles, *doubles[: pairs - 1], b"Hi"])}
    packed = pack(["Hi"], Tokenizer("wide", ranks, len(ranks)))
    assert packed.dtype == np.dtype(f"uint{bits}")
    assert packed.tolist() == [len(ranks), len(ranks) - 1, len(ranks)]


def test_packed_stories_are_kept_and_read_from_disk(tokenizer, cache):
    first = pack(STORIES, tokenizer)
    [path] = kept(cache)
    assert np.array_equal(np.load(path), first)
    np.save(path, first[::-1])
    assert np.array_equal(pack(STORIES, tokenizer), first[::-1])


def test_other_stories_another_order_or_tokenizer_are_kept_apart(tokenizer, cache):
    other = train_tokenizer(STORIES, 300)
    for stories, by in [
        (STORIES, tokenizer),
        (STORIES[1:], tokenizer),
        (STORIES[::-1], tokenizer),
        (STORIES, other),
    ]:
        pack(stories, by)
    assert len(kept(cache)) == 4
    assert pack(STORIES, other).max() == other.eot_id == 299


@pytest.mark.parametrize("other", [["ab"], ["a", "b", ""], ["b", "a"], ["a"], []])
def test_the_fingerprint_tells_stories_apart(other):
    assert digest(["a", "b"]) == digest(("a", "b")) != digest(other)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(tokenizer, cache, monkeypatch, error):
    def half(file, _):
        file.write(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", half)
        with pytest.raises(type(error)):
            pack(STORIES, tokenizer)
    assert kept(cache) == []
    assert len(pack(STORIES, tokenizer)) > len(STORIES)


@pytest.mark.parametrize("stories", [[], ()])
def test_packing_no_stories_is_refused(tokenizer, stories):
    with pytest.raises(ValueError, match="no stories"):
        pack(stories, tokenizer)


def test_a_vocabulary_beyond_16_bits_survives_the_batches():
    stub = SimpleNamespace(eot_id=70_000, dtype=np.uint32, digest="stub", vocab_size=70_001)
    stub.encode = lambda story: [69_999] * len(story)
    x, y = next(Batches(pack(["abc"], stub), batch_size=1, context_length=4))
    assert x.tolist() == [[70_000, 69_999, 69_999, 69_999]]
    assert y.tolist() == [[69_999, 69_999, 69_999, 70_000]]


# Batches


def test_targets_are_the_inputs_one_token_later():
    batches = Batches(toy(3, 5, 8, 2)[0], batch_size=3, context_length=6)
    for x, y in islice(batches, 5):
        assert x.shape == y.shape == (3, 6)
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(x[:, 1:], y[:, :-1])


@pytest.mark.parametrize("context_length", [1, 2, 7, 8, 40, 100])
def test_rows_are_whole_stories_of_which_only_the_last_is_cut(context_length):
    packed, stories = toy(3, 5, 1, 13, 7, 2)
    for row in rows(Batches(packed, batch_size=4, context_length=context_length), 5):
        assert len(row) == context_length + 1
        assert row[0] == 0
        *whole, last = split(row)
        assert all(part in stories for part in whole)
        assert any(story[: len(last)] == last for story in stories)


@pytest.mark.parametrize("context_length", [2, 9, 50])
def test_every_epoch_begins_each_story_once_in_an_order_of_its_own(context_length):
    packed, stories = toy(3, 5, 1, 13, 7, 2)
    supply = rows(Batches(packed, batch_size=2, context_length=context_length), 60)
    begun = [part[0] for row in supply for part in split(row) if part]
    epochs = [begun[i : i + len(stories)] for i in range(0, len(begun) - 5, len(stories))]
    assert len(epochs) > 10
    assert all(sorted(epoch) == [story[0] for story in stories] for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 5


def test_a_seed_decides_the_batches():
    def supply(seed):
        return rows(Batches(toy(*[4] * 12)[0], batch_size=2, context_length=9, seed=seed), 20)

    assert supply(3) == supply(3)
    assert supply(3) != supply(4)
    assert supply(0) == rows(Batches(toy(*[4] * 12)[0], batch_size=2, context_length=9), 20)


@pytest.mark.parametrize("done", [0, 1, 3, 10, 25])
def test_a_fresh_supply_goes_on_from_a_state(done):
    packed, _ = toy(3, 5, 1, 13, 7)
    first, second = (Batches(packed, batch_size=2, context_length=9, seed=5) for _ in range(2))
    rows(first, done)
    second.state = json.loads(json.dumps(first.state))  # as it comes back from a file
    assert rows(second, 12) == rows(first, 12)
    assert second.state == first.state


def test_state_counts_the_stories_taken():
    batches = Batches(toy(9, 9, 9, 9)[0], batch_size=3, context_length=5)  # a story a row
    states = [batches.state] + [(next(batches), batches.state)[1] for _ in range(3)]
    assert states == [0, 3, 6, 9]


def test_a_corpus_smaller_than_a_row_is_read_again_and_again():
    packed, (story,) = toy(3)
    [row] = rows(Batches(packed, batch_size=1, context_length=9), 1)
    assert row == [0, *story, 0, *story, 0, story[0]]


def test_batches_of_packed_stories_read_as_the_stories(tokenizer):
    supply = Batches(pack(STORIES[:20], tokenizer), batch_size=4, context_length=64)
    for row in rows(supply, 3):
        *whole, last = tokenizer.decode(row[1:]).split(END_OF_TEXT)
        assert all(text in STORIES for text in whole)
        assert any(story.startswith(last.rstrip("�")) for story in STORIES)
