"""Files that are whole or not there: where things are kept, and how they are written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def cache_folder() -> Path:
    """Where fetched stories and packed tokens are kept: `$SLM_CACHE`, else `~/.cache/slm`."""
    return Path(os.environ.get("SLM_CACHE") or Path.home() / ".cache" / "slm")


@contextmanager
def writing(path: str | Path) -> Iterator[BinaryIO]:
    """Open `path` for writing bytes; it appears, whole, only when the block ends without an error.

    The bytes go to a file beside it, which then takes its name, so that neither an error nor a
    power cut leaves half a file where a good one stood. Missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            yield file
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
