"""Files that are whole or not there: where things are kept, and how they are written."""

import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from slm.utils.locks import is_same_file, try_lock
from slm.utils.settings_checks import show_value

ASSETS = Path(__file__).parent.parent / "assets"  # what comes with the package
A_MINUTE = 60  # seconds
A_DAY = 24 * 3600


def cache_folder() -> Path:
    """Where fetched stories and packed tokens are kept.

    `$SLM_CACHE`, else `$XDG_CACHE_HOME/slm`, else `~/.cache/slm`. Raises OSError if there is no
    home folder either.
    """
    try:
        if os.environ.get("SLM_CACHE"):
            return Path(os.environ["SLM_CACHE"]).expanduser()
        shared = Path(os.environ.get("XDG_CACHE_HOME", "")).expanduser()
        if shared.is_absolute():  # the XDG specification has others ignored
            return shared / "slm"
        return Path.home() / ".cache" / "slm"
    except RuntimeError:  # a user without a home, as in some containers
        raise OSError("there is no home folder for the cache: set SLM_CACHE to a folder") from None


def expand_home(path: str | Path) -> Path:
    """The path with its `~` or `~user` replaced by that user's home folder.

    Raises ValueError where there is no such user or home folder, and for what is no path.
    """
    check_path(path)
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{path} cannot be found: there is no such home folder; write the path in full."
        ) from None


def check_path(path: object) -> None:
    """Raise ValueError, in a sentence, for anything that names no file or folder."""
    is_path = isinstance(path, str | os.PathLike) and isinstance(os.fspath(path), str)
    if not is_path:
        kind = type(path).__name__
        raise ValueError(
            f"{show_value(path)} ({kind}) names no file or folder: give a text or a pathlib.Path."
        )
    text = os.fspath(path)
    if not text:
        raise ValueError("An empty text names no file or folder: give a name.")
    if "\0" in text:
        raise ValueError(f"{show_value(text)} names no file or folder: take out its zero byte.")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(
            f"{show_value(text)} names no file or folder: take out its half character."
        ) from None


def model_name(model: str | Path) -> str:
    """What a model is called: the last part of its name or folder, also where that is "."."""
    return expand_home(model).resolve().name or "model"


def write(path: Path, content: bytes | memoryview | Iterable[bytes]) -> None:
    """Write a file whole or not at all; `content` may come in parts.

    It is written to a temporary file beside it, `.NAME.RANDOM.part`, which then takes its place.
    What processes that were killed have left of such files in the folder is removed. Raises
    OSError, which names `path`, where the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned_parts(path.parent)
        part, file = _open_part(path)
        try:
            with file:
                file.writelines([content] if isinstance(content, bytes | memoryview) else content)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave an empty file in its place
                if os.name != "nt":  # while it is locked: else it might be swept
                    part.replace(path)
            if os.name == "nt":  # Windows renames no open file
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None:  # of the content, not of the file
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from None


def write_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Write files into a folder, each whole or not at all; `contents` by their names."""
    for name, content in contents.items():
        write(folder / name, content)


def _open_part(path: Path) -> tuple[Path, IO[bytes]]:
    """A new temporary file beside `path`, locked so that no other process removes it."""
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        file = part.open("xb")
        try:
            is_locked = try_lock(file)
        except OSError:  # no locks here
            return part, file
        if is_locked and is_same_file(file, part):
            return part, file
        file.close()  # removed by another process in the moment before it was locked


def remove_abandoned_parts(folder: Path) -> None:
    """Remove temporary files whose process is gone; where there are no locks, after a day."""
    for part in folder.glob(".*.part"):
        try:
            with part.open("r+b") as file:
                if _is_abandoned(file, part):
                    part.unlink()
        except OSError:  # gone in the meantime, another user's, or open in Windows
            continue


def _is_abandoned(file: IO[bytes], part: Path) -> bool:
    age = time.time() - part.stat().st_mtime
    try:
        is_unused = try_lock(file)
    except OSError:
        return age > A_DAY
    return is_unused and (os.name != "nt" or age > A_MINUTE)
