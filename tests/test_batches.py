import errno
import hashlib
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch

from slm.batches import Batches, digest, pack, story_boundaries
from slm.stories.practice import practice_stories
from slm.tokenizer.byte_pair import END_OF_TEXT, Tokenizer, load_tokenizer
from slm.tokenizer.training import train_tokenizer

STORIES = [*practice_stories(20), f"Zoë said “{END_OF_TEXT}” 🦊 twice.", "a", ""]
TRICKY = ["", " ", "\n\n", " a ", "b \n", "'", "it'", "s", "<|endoftext", "|>", "<", "3", "\0", "é"]
TRICKY += [END_OF_TEXT, f" {END_OF_TEXT}\n", f"<|endof{END_OF_TEXT}text|>", "\ufffd", "👩‍👧"]
BROKEN = ["a\ud83db", "\udd8a", "\ud83e", "\udd8a\ud83e ", "“\ud83e”"]  # halves of characters


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer()


class Lazy(Sequence):
    """So many stories, each made when it is asked for, and only one at a time."""

    def __init__(self, story: Callable[[int], str], count: int):
        self.story, self.count = story, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> str:
        if i >= self.count:
            raise IndexError
        return self.story(i)


def kept(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def toy(*lengths: int) -> tuple[np.ndarray, list[list[int]]]:
    """Packed stories of these lengths; all their ids differ, and 0 stands between them."""
    ids = iter(range(1, 30_000))
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


@pytest.mark.parametrize("stories", [["a"], TRICKY, TRICKY[::-1], TRICKY * 12, BROKEN, STORIES * 9])
def test_a_story_has_the_same_ids_alone_and_among_others(tokenizer, stories):
    eot = tokenizer.eot_id
    expected = [eot] + [i for story in stories for i in [*tokenizer.encode(story), eot]]
    packed = pack(stories, tokenizer)
    assert packed.tolist() == expected
    assert packed.dtype == tokenizer.dtype == tokenizer.encode_many([]).dtype
    assert tokenizer.encode_many([]).tolist() == []


def test_one_odd_story_changes_no_other(tokenizer):
    plain = practice_stories(150)
    for odd in [END_OF_TEXT, *BROKEN]:
        expected = pack([odd], tokenizer).tolist() + pack(plain, tokenizer).tolist()[1:]
        assert pack([odd, *plain], tokenizer).tolist() == expected


def test_ids_are_those_of_hugging_face(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    reference.encode_special_tokens = True  # as text
    stories, eot = [*practice_stories(250), *TRICKY, *STORIES], tokenizer.eot_id
    expected = [i for story in stories for i in [*reference.encode(story).ids, eot]]
    assert pack(stories, tokenizer).tolist() == [eot, *expected]


def wide_tokenizer(tokens: int) -> Tokenizer:
    """One of so many tokens and end of text; the last of them is "Hi"."""
    singles = [bytes([i]) for i in range(256)]
    doubles = [a + b for a in singles for b in singles if a + b != b"Hi"]
    ranks = {token: i for i, token in enumerate([*singles, *doubles[: tokens - 257], b"Hi"])}
    return Tokenizer("wide", ranks, len(ranks))


@pytest.mark.parametrize(("tokens", "bits"), [(65_535, 16), (65_536, 32)])
@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_ids_take_16_bits_as_long_as_the_vocabulary_fits(tokens, bits, in_memory):
    packed = pack(["Hi"], wide_tokenizer(tokens), in_memory)
    assert packed.dtype == np.dtype(f"uint{bits}")
    assert packed.tolist() == [tokens, tokens - 1, tokens]


def test_packed_stories_are_kept_and_read_from_disk(tokenizer, cache, monkeypatch):
    first = pack(STORIES, tokenizer)
    [path] = kept(cache)
    assert np.array_equal(np.fromfile(path, tokenizer.dtype, len(first)), first)
    monkeypatch.setattr(type(tokenizer), "encode_many", None)  # what is kept needs no encoding
    assert np.array_equal(pack(STORIES, tokenizer), first)


@pytest.mark.parametrize("in_memory", [0, 2**29])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0\0",
        lambda content: bytes(len(content)),  # what a power cut may leave
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        lambda content: content[:-16],  # as earlier versions kept it: without a digest
        lambda content: content[2:4] + content[:2] + content[4:],
    ],
)
def test_a_damaged_cache_is_made_anew_and_it_is_said(tokenizer, cache, damage, in_memory, capsys):
    expected = pack(STORIES, tokenizer).tolist()
    [path] = kept(cache)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert pack(STORIES, tokenizer, in_memory).tolist() == expected
    assert f"{path} are damaged" in capsys.readouterr().out
    assert path.read_bytes() == whole
    assert pack(STORIES, tokenizer, in_memory).tolist() == expected
    assert capsys.readouterr().out == ""


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("trouble", ["full", "file", "nobody"])
def test_a_cache_that_cannot_be_written_is_done_without_and_it_is_said(
    tokenizer, tmp_path, monkeypatch, capsys, trouble
):
    expected = pack(STORIES, tokenizer).tolist()
    capsys.readouterr()
    monkeypatch.setenv("SLM_CACHE", str(tmp_path / "other"))
    if trouble == "full":
        monkeypatch.setattr("os.fsync", no_space)
    elif trouble == "file":
        (tmp_path / "other").write_text("a file where the folder should be")
    else:  # a container's user without a home
        monkeypatch.delenv("SLM_CACHE")
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("os.getuid", lambda: 123_456, raising=False)
        monkeypatch.setattr(Path, "home", classmethod(lambda cls: missing_home()))
    assert pack(STORIES, tokenizer).tolist() == expected
    said = capsys.readouterr().out
    assert said.startswith("The tokens are not cached for next time (")
    assert said.count("\n") == 1


def missing_home():
    raise RuntimeError("Could not determine home directory.")


def test_a_large_array_is_a_memory_map_that_cannot_be_written_to(tokenizer):
    small = pack(STORIES, tokenizer)
    assert type(small) is type(pack(STORIES, tokenizer, small.nbytes)) is np.ndarray
    large = pack(STORIES, tokenizer, small.nbytes - 1)
    assert isinstance(large, np.memmap)
    assert np.array_equal(small, large)
    with pytest.raises(ValueError, match="read-only"):
        large[0] = 1


def test_packing_holds_few_stories_in_memory(tokenizer):
    stories = Lazy(lambda i: f"{i} " + "Once upon a time. " * 80, 3_000)  # 4.3 MB
    tracemalloc.start()
    try:
        packed = pack(stories, tokenizer, in_memory=0)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert (packed == tokenizer.eot_id).sum() == len(stories) + 1


def test_what_is_quickly_packed_shows_no_progress(tokenizer, capfd):
    pack(STORIES * 20, tokenizer)
    assert capfd.readouterr() == ("", "")


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


@pytest.mark.parametrize("stories", [[], [""], ["", ""], ["a"], TRICKY, BROKEN, STORIES])
def test_the_fingerprint_is_the_start_of_a_sha256(stories):
    whole = "\0".join(stories).encode("utf-8", "replace")
    assert digest(stories) == hashlib.sha256(whole).hexdigest()[:16]
    assert digest(Lazy(stories.__getitem__, len(stories))) == digest(stories)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("odd")])
@pytest.mark.parametrize("place", [0, 150, 399])
def test_an_interruption_leaves_nothing(tokenizer, cache, error, place):
    whole, seen, beside = practice_stories(400), [], []

    def story(i: int) -> str:
        seen.append(i)
        if len(seen) == 400 + place + 1:  # the first time round is for the fingerprint
            beside.extend(kept(cache))
            raise error
        return whole[i]

    with pytest.raises(type(error)):
        pack(Lazy(story, 400), tokenizer)
    assert [path.suffix for path in beside] == [".part"]
    assert kept(cache) == []
    packed = pack(Lazy(story, 400), tokenizer)
    assert np.array_equal(packed, tokenizer.encode_many(["", *whole]))
    assert [path.suffix for path in kept(cache)] == [".bin"]


@pytest.mark.parametrize("stories", [[], ()])
def test_packing_no_stories_is_refused(tokenizer, stories):
    with pytest.raises(ValueError, match="no stories"):
        pack(stories, tokenizer)


def test_a_vocabulary_beyond_16_bits_survives_the_batches():
    packed = pack(["Hi"], wide_tokenizer(65_700))
    x, y = next(Batches(packed, batch_size=1, context_length=4))
    assert x.tolist() == [[65_700, 65_699, 65_700, 65_699]]
    assert y.tolist() == [[65_699, 65_700, 65_699, 65_700]]


# Batches


def test_targets_are_the_inputs_one_token_later():
    batches = Batches(toy(3, 5, 8, 2)[0], batch_size=3, context_length=6)
    for x, y in islice(batches, 5):
        assert x.shape == y.shape == (3, 6)
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(x[:, 1:], y[:, :-1])


LENGTHS = (3, 5, 1, 13, 7, 2)


@pytest.mark.parametrize("context_length", [14, 15, 40, 100])
def test_rows_are_whole_stories_of_which_only_the_last_is_cut(context_length):
    packed, stories = toy(*LENGTHS)
    for row in rows(Batches(packed, batch_size=4, context_length=context_length), 5):
        assert len(row) == context_length + 1
        assert row[0] == 0
        *whole, last = split(row)
        assert all(part in stories for part in whole)
        assert any(story[: len(last)] == last for story in stories)


@pytest.mark.parametrize("context_length", [14, 20, 50])
def test_every_epoch_begins_each_story_once_in_an_order_of_its_own(context_length):
    packed, stories = toy(*LENGTHS)
    supply = rows(Batches(packed, batch_size=2, context_length=context_length), 60)
    begun = [part[0] for row in supply for part in split(row) if part]
    epochs = [begun[i : i + len(stories)] for i in range(0, len(begun) - 5, len(stories))]
    assert len(epochs) > 10
    assert all(sorted(epoch) == [story[0] for story in stories] for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 5


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("context_length", [1, 2, 3, 6, 7, 8, 13, 14])
def test_a_story_longer_than_the_context_goes_on_in_the_same_row_of_the_next_batch(
    context_length, batch_size
):
    packed, stories = toy(*LENGTHS)
    batches = Batches(packed, batch_size=batch_size, context_length=context_length)
    found = rows(batches, 60)
    predicted = Counter()
    for number, row in enumerate(found):
        predicted.update(row[1:])
        before = found[number - batch_size] if number >= batch_size else [0]
        last = split(before)[-1] if before[0] == 0 else split([0, *before])[-1]
        cut = [s for s in stories if last and last[-1] in s and last[-1] != s[-1]]
        if cut and len(cut[0]) + 1 > context_length:
            at = cut[0].index(last[-1])
            rest = [*cut[0][at:], 0][: context_length + 1]
            assert row[: len(rest)] == rest
        elif not (last and any(last[-1] == s[-1] and len(s) + 1 > context_length for s in stories)):
            assert row[0] == 0
    long = [story for story in stories if len(story) + 1 > context_length]
    for story in long:  # all of it as often as its first token, but for what is still to come
        counts = [predicted[i] for i in story]
        assert max(counts) - min(counts) <= batch_size
        assert min(counts) > 0


def test_all_of_ten_long_stories_is_read_once_in_an_epoch():
    packed, stories = toy(*[2_000] * 10)
    batches = Batches(packed, batch_size=10, context_length=256)
    predicted = Counter()
    while batches.stories_drawn <= 10:
        predicted.update(next(batches)[1].flatten().tolist())
    counts = [predicted[i] for story in stories for i in story]
    assert set(counts[:255]) <= {1, 2}  # the next epoch has begun
    assert sum(counts) / len(counts) == pytest.approx(1, abs=0.15)
    assert min(counts) == 1


def test_rows_of_a_batch_are_of_different_stories():
    packed, _ = toy(*[2_000] * 10)
    batches = Batches(packed, batch_size=6, context_length=256)
    for x in (next(batches)[0] for _ in range(6)):
        assert len({(row[1].item() - 1) // 2_000 for row in x}) == 6


@pytest.mark.parametrize("parts", [2, 3])
def test_a_step_drawn_in_several_batches_has_the_same_rows(parts):
    packed, _ = toy(*LENGTHS)
    settings = {"context_length": 6, "seed": 2}
    whole = Batches(packed, batch_size=6, **settings)
    pieces = Batches(packed, batch_size=6 // parts, rows_in_step=6, **settings)
    for _ in range(20):
        assert rows(whole, 1) == rows(pieces, parts)
    assert whole.unfinished == pieces.unfinished


@pytest.mark.parametrize("record", [[1, 99, 5], [1, 3, 0], [1, 3, 14], [1, 0, 4]])
def test_a_story_that_cannot_go_on_is_refused(record):
    batches = Batches(toy(*LENGTHS)[0], batch_size=2, context_length=6)
    with pytest.raises(ValueError, match="to go on with"):
        batches.unfinished = [record]


def test_stories_begin_with_the_token_that_a_tokenizer_has_for_it():
    packed, stories = toy(3, 5, 1)
    for row in rows(Batches(packed, batch_size=6, context_length=12, bos_id=777), 10):
        assert row[0] == 777
        *whole, last = "".join(f"{i} " for i in row[1:]).split("777 ")  # the last one is cut off
        assert whole
        assert all(text in {"".join(f"{i} " for i in [*s, 0]) for s in stories} for text in whole)
        assert any("".join(f"{i} " for i in [*s, 0]).startswith(last) for s in stories)


def test_where_the_first_token_is_the_end_of_text_it_stands_once_between_two_stories():
    packed, _ = toy(3, 5, 9)
    named = Batches(packed, batch_size=6, context_length=8, bos_id=0)
    assert rows(named, 10) == rows(Batches(packed, batch_size=6, context_length=8), 10)


@pytest.mark.parametrize("context_length", [1, 2, 3, 4, 5, 8])
def test_a_long_story_goes_on_after_a_first_token_of_its_own_too(context_length):
    packed, stories = toy(9, 13, 11)
    batches = Batches(packed, batch_size=1, context_length=context_length, bos_id=777)
    found = rows(batches, 400)
    # A row begins with the last target of the row before, inside a story or at its end.
    read = [found[0][0]]
    for row in found:
        if row[0] != read[-1]:
            assert row[0] == 777
            assert read[-1] == 0
            read.append(777)
        read.extend(row[1:])
    texts = [[777, *story, 0] for story in stories]
    place = 0
    while place < len(read) - 15:
        text = next(text for text in texts if read[place : place + len(text)] == text)
        place += len(text)


def test_a_supply_with_a_first_token_of_its_own_goes_on_from_a_state():
    packed, _ = toy(3, 5, 1, 13, 7)
    settings = dict(batch_size=2, context_length=3, seed=5, bos_id=777)
    for done in range(12):
        first, second = Batches(packed, **settings), Batches(packed, **settings)
        rows(first, done)
        second.stories_drawn, second.unfinished = first.stories_drawn, first.unfinished
        assert rows(second, 12) == rows(first, 12)


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
    file = json.dumps([first.stories_drawn, first.unfinished])
    second.stories_drawn, second.unfinished = json.loads(file)
    assert rows(second, 12) == rows(first, 12)
    assert second.stories_drawn == first.stories_drawn


def test_the_stories_drawn_are_counted():
    batches = Batches(toy(9, 9, 9, 9)[0], batch_size=3, context_length=10)  # a story a row
    counts = [batches.stories_drawn]
    for _ in range(3):
        next(batches)
        counts.append(batches.stories_drawn)
    assert counts == [0, 3, 6, 9]


def test_a_corpus_smaller_than_a_row_is_read_again_and_again():
    packed, (story,) = toy(3)
    [row] = rows(Batches(packed, batch_size=1, context_length=9), 1)
    assert row == [0, *story, 0, *story, 0, story[0]]


def test_batches_of_packed_stories_read_as_the_stories(tokenizer):
    supply = Batches(pack(STORIES[:20], tokenizer), batch_size=4, context_length=400)
    for row in rows(supply, 3):
        *whole, last = tokenizer.decode(row[1:]).split(END_OF_TEXT)
        assert all(text in STORIES for text in whole)
        assert any(story.startswith(last.rstrip("�")) for story in STORIES)


def test_batches_of_a_memory_map_are_those_of_the_array(tokenizer):
    array, large = pack(STORIES, tokenizer), pack(STORIES, tokenizer, in_memory=0)
    settings = dict(batch_size=3, context_length=50, seed=2)
    supplies = Batches(array, **settings), Batches(large, **settings)
    for _ in range(30):
        (x, y), (mapped_x, mapped_y) = map(next, supplies)
        assert torch.equal(x, mapped_x)
        assert torch.equal(y, mapped_y)
        mapped_x += 1  # a copy: the file stays as it is
    assert np.array_equal(array, large)


def test_a_large_memory_map_is_searched_piece_by_piece(tmp_path):
    piece = 2**24
    ends = [0, 9, piece - 1, piece, piece + 5, 2 * piece - 1, 2 * piece + 3]  # around borders
    packed = np.memmap(tmp_path / "large", np.uint16, "w+", shape=2 * piece + 4)
    packed[:] = 1
    packed[ends] = 0
    tracemalloc.start()
    try:
        assert story_boundaries(packed).tolist() == ends
        assert tracemalloc.get_traced_memory()[1] < 1.5 * piece
    finally:
        tracemalloc.stop()


# Batches shared by several processes


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_the_shares_of_all_processes_are_the_batch_of_one(world_size):
    settings = dict(batch_size=6, context_length=9, seed=4)
    packed = toy(3, 5, 1, 13, 7, 2)[0]
    alone = Batches(packed, **settings)
    shares = [Batches(packed, **settings, rank=i, world_size=world_size) for i in range(world_size)]
    for _ in range(10):
        whole, parts = next(alone), [next(share) for share in shares]
        for kind in (0, 1):
            assert all(len(part[kind]) == 6 // world_size for part in parts)
            interleaved = torch.stack([part[kind] for part in parts], 1).flatten(0, 1)
            assert torch.equal(interleaved, whole[kind])
        assert {share.stories_drawn for share in shares} == {alone.stories_drawn}


def test_a_run_goes_on_with_another_number_of_processes():
    packed, settings = toy(*[4] * 12)[0], dict(batch_size=4, context_length=9)
    alone, first = Batches(packed, **settings), Batches(packed, **settings, rank=1, world_size=4)
    rows(alone, 7)
    rows(first, 7)
    seconds = [Batches(packed, **settings, rank=i, world_size=2) for i in (0, 1)]
    for second in seconds:
        second.stories_drawn = first.stories_drawn
        second.unfinished = first.unfinished
    whole, *shares = rows(alone, 1), *(rows(second, 1) for second in seconds)
    assert shares == [whole[0::2], whole[1::2]]


@pytest.mark.parametrize(("batch_size", "world_size"), [(5, 2), (1, 2), (8, 3)])
def test_a_batch_that_cannot_be_shared_equally_is_refused(batch_size, world_size):
    match = f"batch_size is {batch_size}: give a multiple of world_size={world_size}"
    with pytest.raises(ValueError, match=match):
        Batches(toy(3)[0], batch_size=batch_size, context_length=4, world_size=world_size)
