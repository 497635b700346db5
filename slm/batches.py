"""Stories become numbers: one long array, `<eot> story <eot> story <eot>`, cut into batches."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.files import cache_folder, write
from slm.utils.printing import BarOutput, say, say_once

STORIES_AT_ONCE = 100  # encoded together, which is faster
DIGEST_SIZE = 16  # bytes of BLAKE2b, after the ids in a cache file
BYTES_AT_ONCE = 2**24  # read together to be checked
TOKENS_AT_ONCE = 2**24  # searched together: a memory map may be larger than memory


def digest(stories: Sequence[str]) -> str:
    """A short fingerprint of some stories and their order."""
    sha = hashlib.sha256()
    for number, story in enumerate(stories):
        separator = "\0" if number > 0 else ""
        sha.update((separator + story).encode("utf-8", "replace"))
    return sha.hexdigest()[:16]


def pack(stories: Sequence[str], tokenizer: Tokenizer, in_memory: int = 2**29) -> np.ndarray:
    """All stories as one array of token ids, in 16 bits each where the vocabulary allows, else 32.

    The array is cached on disk, under a name made of all that determines it, with its digest. If it
    has more than `in_memory` bytes, it is a read-only memory map. A damaged cache is rebuilt, which
    is said; where none can be written caching is skipped, which is said once. Raises ValueError if
    there is no story.
    """
    if not stories:
        raise ValueError("There are no stories to pack: give at least one.")
    try:
        path = cache_folder() / "tokens" / f"{tokenizer.digest}-{digest(stories)}.bin"
        if path.exists() and not _is_whole(path, tokenizer.dtype):
            say(f"The cached tokens in {path} are damaged or of an earlier version: rebuilding.")
            path.unlink()
        if not path.exists():
            write(path, _with_digest(_encode(stories, tokenizer)))
        count = (path.stat().st_size - DIGEST_SIZE) // tokenizer.dtype.itemsize
        if count * tokenizer.dtype.itemsize > in_memory:
            return np.memmap(path, tokenizer.dtype, "r", shape=(count,))
        return np.fromfile(path, tokenizer.dtype, count)
    except OSError as error:
        place = f" in {Path(error.filename).parent}" if error.filename else ""
        say_once(f"The tokens are not cached for next time ({error.strerror or error}{place}).")
        return np.concatenate(list(_encode(stories, tokenizer)))


def _with_digest(parts: Iterable[np.ndarray]) -> Iterator[bytes]:
    """The bytes of a cache file: all ids, and the digest of their bytes at the end."""
    hasher = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for part in parts:
        hasher.update(part.data)
        yield part.tobytes()
    yield hasher.digest()


def _is_whole(path: Path, dtype: np.dtype) -> bool:
    """Whether a cache file has at least two ids and the digest that belongs to them."""
    size = path.stat().st_size - DIGEST_SIZE  # of the ids
    if size < 2 * dtype.itemsize or size % dtype.itemsize:
        return False
    hasher = hashlib.blake2b(digest_size=DIGEST_SIZE)
    with path.open("rb") as file:
        for start in range(0, size, BYTES_AT_ONCE):
            hasher.update(file.read(min(BYTES_AT_ONCE, size - start)))
        return file.read() == hasher.digest()


def _encode(stories: Sequence[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The array of `pack`, in parts."""
    yield np.array([tokenizer.eot_id], tokenizer.dtype)
    stories = tqdm(
        stories,
        "Packing stories",
        leave=False,
        file=BarOutput(),
        delay=2,  # seconds: what is done sooner needs no bar
    )
    part = []
    for story in stories:
        part.append(story)
        if len(part) == STORIES_AT_ONCE:
            yield tokenizer.encode_many(part)
            part = []
    if part:
        yield tokenizer.encode_many(part)


class Batches(Iterator):
    """An endless supply of batches `(inputs, targets)`, `(B, T)` each: the target of a token is the
    token after it.

    A row begins where a story begins, so that no context is missing. More stories follow until the
    row is full, and the last one is cut off. If that one is longer than the context, the same row
    of the next batch begins where it was cut, so that all of it is read; a shorter one is read
    whole in another epoch. Each epoch shuffles the stories again.

    Each story begins with `bos_id` and ends with the end of text. Where these are one token, as by
    default, it stands only once between two stories.

    `stories_drawn` counts the stories so far, over all epochs, and `unfinished` has those to go on
    with: set both to resume. Of `world_size` processes each draws all rows and takes its share,
    `rows[rank::world_size]`. Where a batch is drawn in several smaller ones, `rows_in_step` is the
    number of rows of the whole one, so that the rows are the same.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        batch_size: int,
        context_length: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        bos_id: int | None = None,
        rows_in_step: int | None = None,
    ):
        if batch_size % world_size:
            raise ValueError(f"batch_size is {batch_size}: give a multiple of {world_size=}.")
        self.tokens = tokens
        self.batch_size = batch_size
        self.context_length = context_length
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.rows_in_step = rows_in_step or batch_size
        self.stories_drawn = 0
        end_of_text = tokens[:1]
        self._bos = end_of_text if bos_id is None else np.array([bos_id], tokens.dtype)
        self._bos_is_end_of_text = np.array_equal(self._bos, end_of_text)
        self._boundaries = story_boundaries(tokens)
        self._epoch = -1
        self._order = np.empty(0, np.int64)
        self._rows_drawn = 0
        # By the number of the row that goes on: a story, and how many of its ids were read.
        self._unfinished: dict[int, tuple[int, int]] = {}

    @property
    def tokens_per_epoch(self) -> int:
        """All ids that an epoch has to read, `bos_id` before each story among them."""
        stories = len(self._boundaries) - 1
        return len(self.tokens) + (0 if self._bos_is_end_of_text else stories)

    @property
    def unfinished(self) -> list[list[int]]:
        """Stories to go on with: in how many rows, which story, and how much of it was read."""
        return [
            [row - self._rows_drawn, story, read] for row, (story, read) in self._unfinished.items()
        ]

    @unfinished.setter
    def unfinished(self, records: list[list[int]]) -> None:
        self._unfinished = {}
        for rows, story, read in records:
            if story >= len(self._boundaries) - 1 or not 0 < read < len(self._story_ids(story)):
                raise ValueError(f"there is no token {read} of a story {story} to go on with")
            self._unfinished[self._rows_drawn + rows] = (story, read)

    def __next__(self) -> tuple[Tensor, Tensor]:
        """The next batch, or this process's share of it: inputs and targets, `(B, T)` int64."""
        rows = np.stack([self._draw_row() for _ in range(self.batch_size)])
        rows = rows[self.rank :: self.world_size]  # (B, T + 1)
        return torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])

    def _draw_row(self) -> np.ndarray:
        """The next row of T + 1 ids: the last one is only a target."""
        parts = []
        if self._rows_drawn in self._unfinished:
            story, read = self._unfinished.pop(self._rows_drawn)
            # From its last target on, which is the first input now.
            parts.append(self._story_ids(story)[read - 1 :])
        elif self._bos_is_end_of_text:
            parts.append(self._bos)
        length = sum(len(part) for part in parts)
        while length <= self.context_length:
            story = self._draw_story()
            ids = self._story_ids(story)
            parts.append(ids)
            length += len(ids)
        row = np.concatenate(parts, dtype=np.int64)[: self.context_length + 1]
        self._finish_later(story, unread=length - len(row))  # the last story of the row
        self._rows_drawn += 1
        return row

    def _finish_later(self, story: int, unread: int) -> None:
        """Let a later row go on with a story, if it was cut off and is longer than the context."""
        size = len(self._story_ids(story))
        if unread and size > self.context_length:
            row = self._rows_drawn + self.rows_in_step
            while row in self._unfinished:  # taken, where the run resumes from larger batches
                row += 1
            self._unfinished[row] = (story, size - unread)

    def _draw_story(self) -> int:
        """The number of the epoch's next story."""
        stories = len(self._boundaries) - 1
        epoch, place = divmod(self.stories_drawn, stories)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = epoch_order(stories, self.seed, epoch)
        self.stories_drawn += 1
        return int(self._order[place])

    def _story_ids(self, number: int) -> np.ndarray:
        """The ids of a story with the end of text after it, and `bos_id` before it if that differs.

        Where both are one token, the end of the story before is this one's beginning.
        """
        start = self._boundaries[number] + 1
        end = self._boundaries[number + 1] + 1
        ids = self.tokens[start:end]
        return ids if self._bos_is_end_of_text else np.concatenate([self._bos, ids])


def story_boundaries(tokens: np.ndarray) -> np.ndarray:
    """The places of all ends of text in a packed array: before the first story, and after each."""
    end_of_text = tokens[0]
    found = []
    for start in range(0, len(tokens), TOKENS_AT_ONCE):
        part = tokens[start : start + TOKENS_AT_ONCE]
        found.append(start + np.flatnonzero(part == end_of_text))
    return np.concatenate(found)


def epoch_order(stories: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch, counted from 0, takes the stories: a random permutation."""
    return np.random.default_rng((seed, epoch)).permutation(stories)
