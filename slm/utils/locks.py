"""Locks on files that end with the process that holds them, however it ends."""

import os
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCKED_BYTE = 2**30  # on Windows a locked byte cannot be read: take one beyond the content


def try_lock(file: IO[bytes]) -> bool:
    """Lock an open file until it is closed; False if another process, or thread, has locked it.

    Raises OSError on a file system that has no locks.
    """
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            _lock_on_windows(file)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _lock_on_windows(file: IO[bytes]) -> None:
    import msvcrt

    position = file.tell()
    file.seek(LOCKED_BYTE)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    finally:
        file.seek(position)


def is_same_file(file: IO[bytes], path: os.PathLike) -> bool:
    """Whether an open file is still the one that stands at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))  # noqa: PTH116
    except FileNotFoundError:
        return False
