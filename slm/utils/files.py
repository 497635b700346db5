"""Files that are whole or not there: where things are kept, and how they are written."""

import os
from collections.abc import Iterable
from pathlib import Path

ASSETS = Path(__file__).parent.parent / "assets"  # what comes with the package


def cache_folder() -> Path:
    """Where fetched stories and packed tokens are kept: `$SLM_CACHE`, else `~/.cache/slm`."""
    return Path(os.environ.get("SLM_CACHE") or Path.home() / ".cache" / "slm")


def write(path: Path, content: bytes | memoryview | Iterable[bytes]) -> None:
    """Write a file whole or not at all, by way of one beside it; `content` may come in parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.writelines([content] if isinstance(content, bytes | memoryview) else content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
