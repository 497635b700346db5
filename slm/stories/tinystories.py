"""TinyStories (Eldan and Li 2023, arXiv:2305.07759) from the Hugging Face hub, only as much of it
as is needed, and kept in the cache folder (optional: the package also works without a network)."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import islice
from threading import Thread

from tqdm import tqdm

from slm.stories.cleaning import Stories, clean_stories
from slm.utils.files import cache_folder, write
from slm.utils.printing import BarOutput, say

REPO = "roneneldan/TinyStories"
TIMEOUT = 2.5  # seconds that the hub has to answer
CACHE_FILE = "tinystories.jsonl"


@dataclass(frozen=True)
class RawStories:
    """TinyStories as the hub has them, not yet cleaned."""

    train: list[str]
    validation: list[str]
    requested: int  # so many to train on were asked for; the hub may have had fewer
    fetched_on: str  # the day, as 2026-01-31


def load_tinystories(n: int, held_out: int) -> tuple[Stories, str]:
    """At most `n` stories and `held_out` to validate on, and a few words on where they come from.

    They are read from the cache folder where it has enough, else fetched and then cached. Raises
    ConnectionError, with the reason, where the hub cannot be reached and nothing is cached.
    """
    try:
        cached = _read_cache()
    except (OSError, ValueError) as error:
        say(f"The stories that were kept cannot be used, new ones are fetched: {error}.")
        cached = None
    if cached and cached.requested >= n:
        raw = cached
        origin = f"kept since {cached.fetched_on}, nothing downloaded"
    else:
        try:
            raw = fetch(n, held_out)
            origin = f"fetched from {endpoint()} with load_dataset" + _write_cache(raw)
        except ConnectionError as error:
            if not cached:
                raise ConnectionError(f"{error}; and none are kept from before") from error
            raw = cached
            origin = f"only those kept since {cached.fetched_on}; {error}"
    train, train_cleaning = clean_stories(raw.train, ended=True, limit=n)
    validation, validation_cleaning = clean_stories(
        raw.validation, ended=True, without=train, limit=held_out
    )
    cleaning = train_cleaning + validation_cleaning
    return Stories(train, validation, "TinyStories", False, cleaning), origin


def _read_cache() -> RawStories | None:
    """The stories in the cache folder, or None where there are none.

    Raises ValueError for a file that is damaged, OSError for one that cannot be read.
    """
    file = cache_folder() / CACHE_FILE
    damaged = ValueError(f"{file} is damaged")
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if content.startswith(b"["):
        payload = content  # as earlier versions wrote it, without a checksum
    else:
        checksum, _, payload = content.partition(b"\n")
        if checksum != _checksum(payload):
            raise damaged
    try:
        fetched_on, requested, train, validation = json.loads(payload)
        raw = RawStories(train, validation, requested, fetched_on)
    except (ValueError, TypeError, RecursionError):
        raise damaged from None
    if not _is_sound(raw):
        raise damaged
    return raw


def _is_sound(raw: RawStories) -> bool:
    """Whether all parts are of the types that they should be."""
    for stories in (raw.train, raw.validation):
        if not isinstance(stories, list) or not stories:
            return False
        if not all(isinstance(story, str) for story in stories):
            return False
    return type(raw.requested) is int and isinstance(raw.fetched_on, str)


def _write_cache(raw: RawStories) -> str:
    """Keep the stories for next time; where that fails, a few words say so."""
    content = [raw.fetched_on, raw.requested, raw.train, raw.validation]
    payload = json.dumps(content).encode()
    try:
        write(cache_folder() / CACHE_FILE, _checksum(payload) + b"\n" + payload)
    except OSError as error:  # a full or read-only disk is no reason to stop
        return f", not kept for next time: {error}"
    return ""


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).hexdigest().encode()


def fetch(n: int, held_out: int) -> RawStories:
    """Fetch enough stories of both splits that `n` and `held_out` are left after cleaning.

    Raises ConnectionError, with the reason in half a sentence.
    """
    reason = why_unavailable()
    if reason:
        raise ConnectionError(reason)
    train: list[str] = []
    validation: list[str] = []
    try:
        _fetch_split("train", n, train)
        _fetch_split("validation", held_out, validation)
    except Exception as error:  # of pyarrow, httpx, the hub ...: here they are all the same
        count = len(train) + len(validation)
        reason = f"the download broke off after {count:,} stories ({type(error).__name__})"
        raise ConnectionError(reason) from error
    return RawStories(train, validation, n, str(date.today()))


def _fetch_split(split: str, wanted: int, stories: list[str]) -> None:
    """Append the stories of one split to `stories`, one by one: those before an error count."""
    enough = wanted + wanted // 20 + 100  # cleaning will drop some
    fetched = tqdm(
        islice(stream(split), enough),
        f"Fetching {split} stories",
        total=enough,
        leave=False,
        file=BarOutput(),
    )
    for story in fetched:
        stories.append(story)
    if not stories:
        raise ValueError(f"no stories in {split}")


def stream(split: str) -> Iterator[str]:
    """The stories of one split, one after the other, fetched as they are asked for."""
    import datasets
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    retries = datasets.config.STREAMING_READ_MAX_RETRIES
    logging.set_verbosity(logging.CRITICAL)  # what comes of the retries is said in one sentence
    datasets.config.STREAMING_READ_MAX_RETRIES = 1  # on top of the hub's own five
    try:
        # Small blocks, and one row group at a time by reshard(): a file that is left half read
        # would go on being fetched, tens of megabytes of it.
        blocks = {"hf": {"block_size": 2**19}}
        rows = datasets.load_dataset(REPO, split=split, streaming=True, storage_options=blocks)
        for row in rows.reshard():
            yield row["text"]
    finally:
        logging.set_verbosity(verbosity)
        datasets.config.STREAMING_READ_MAX_RETRIES = retries


def endpoint() -> str:
    """The hub's address, or that of the mirror which HF_ENDPOINT names."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def why_unavailable() -> str:
    """Why the hub cannot be used, in half a sentence; empty if it can."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}:
            return f"{name} is set"
    # In a thread: a name server that never answers outlasts the timeout of the request.
    answers: list[str] = []
    thread = Thread(target=lambda: answers.append(_request_problem()), daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if not answers:
        return f"could not reach {endpoint()} (no answer in {TIMEOUT} s)"
    return answers[0]


def _request_problem() -> str:
    """What is wrong with the hub's answer; empty if nothing is."""
    import requests

    try:
        reply = requests.get(f"{endpoint()}/api/datasets/{REPO}", timeout=2)
    except requests.RequestException as error:
        return f"could not reach {endpoint()} ({type(error).__name__})"
    if not reply.ok:
        return f"{endpoint()} answered {reply.status_code} ({reply.reason})"
    if f'"{REPO}"' not in reply.text:
        return f"{endpoint()} is not the hub (a login page of the wifi?)"
    return ""
