"""TinyStories from the Hugging Face hub, only as much as is needed (optional: the rest of the
package works without a network)."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import astuple
from datetime import date
from threading import Thread

from tqdm import trange

from slm.stories.cleaning import Cleaning, Stories, clean_stories
from slm.utils.files import cache_folder, write

REPO = "roneneldan/TinyStories"


def load_tinystories(n: int, held: int) -> tuple[Stories, str]:
    """At most `n` stories and `held` to validate on, and, in brackets, how they came: kept in the
    cache folder or fetched, and then kept. Raises ConnectionError, with the reason, for neither."""
    file = cache_folder() / "tinystories.jsonl"
    try:
        day, asked, train, validation = json.loads(file.read_text(encoding="utf-8"))
        how = f"kept since {day}"
    except (OSError, ValueError, TypeError):  # none kept yet, or not as written below
        asked = 0
    if asked >= n:
        how += ", nothing downloaded"
    else:
        try:
            train, validation = fetch(n, held)
            how = f"fetched from {endpoint()} with load_dataset"
            write(file, json.dumps([str(date.today()), n, train, validation]).encode())
        except ConnectionError as error:
            if not asked:
                raise ConnectionError(f"{error}; and none are kept from before") from error
            how = f"only those {how}; {error}"
        except OSError as error:
            how += f", not kept for next time: {error}"
    train, done = clean_stories(train, ended=True, most=n)
    validation, more = clean_stories(validation, ended=True, without=train, most=held)
    both = Cleaning(*map(sum, zip(astuple(done), astuple(more), strict=True)))
    return Stories(train, validation, "TinyStories", False, both), f" ({how})"


def fetch(n: int, held: int) -> list[list[str]]:
    """Enough raw stories of both splits; ConnectionError says, in half a sentence, why not."""
    if why := trouble():
        raise ConnectionError(why)
    parts: list[list[str]] = [[], []]
    try:
        for split, part, wanted in zip(("train", "validation"), parts, (n, held), strict=True):
            enough = wanted + wanted // 20 + 100  # some will be dropped
            bar = {"desc": f"Fetching {split} stories", "leave": False, "file": sys.stdout}
            part.extend(text for _, text in zip(trange(enough, **bar), stream(split)))
            if not part:
                raise ValueError(f"no stories in {split}")
    except Exception as error:  # of pyarrow, httpx, the hub ...: to us they are all the same
        why = f"{sum(map(len, parts)):,} stories ({type(error).__name__})"
        raise ConnectionError(f"the download broke off after {why}") from error
    return parts


def stream(split: str) -> Iterator[str]:
    """The stories of one split, one after the other, fetched as they are asked for."""
    import datasets
    from huggingface_hub.utils import logging

    loudness, tries = logging.get_verbosity(), datasets.config.STREAMING_READ_MAX_RETRIES
    logging.set_verbosity(logging.CRITICAL)  # retries are no news: it is said if they fail
    datasets.config.STREAMING_READ_MAX_RETRIES = 1  # on top of the hub's own five
    try:
        # Small blocks, and one row group at a time by reshard(): a file that is left half read
        # would go on being fetched, tens of megabytes of it.
        blocks = {"hf": {"block_size": 2**19}}
        rows = datasets.load_dataset(REPO, split=split, streaming=True, storage_options=blocks)
        yield from (row["text"] for row in rows.reshard())
    finally:
        logging.set_verbosity(loudness)
        datasets.config.STREAMING_READ_MAX_RETRIES = tries


def endpoint() -> str:
    """The hub's address, or that of the stand-in which HF_ENDPOINT names."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def trouble() -> str:
    """Why the hub cannot be used, in half a sentence; nothing if it can."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}:
            return f"{name} is set"
    answers = [f"could not reach {endpoint()} (no answer in 2.5 s)"]
    # In a thread: a name server that keeps silent outlasts the timeout of the request.
    thread = Thread(target=lambda: answers.append(_ask()), daemon=True)
    thread.start()
    thread.join(2.5)
    return answers[-1]


def _ask() -> str:
    import requests

    try:
        reply = requests.get(f"{endpoint()}/api/datasets/{REPO}", timeout=2)
    except requests.RequestException as error:
        return f"could not reach {endpoint()} ({type(error).__name__})"
    if not reply.ok:
        return f"{endpoint()} answered {reply.status_code} ({reply.reason})"
    is_hub = f'"{REPO}"' in reply.text
    return "" if is_hub else f"{endpoint()} is not the hub (a login page of the wifi?)"
