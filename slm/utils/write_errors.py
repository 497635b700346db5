"""Errors in writing files, such as a full disk: explained in a sentence, with a suggested fix."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HINTS = {  # what is wrong, and a suggested fix
    errno.ENOSPC: "the disk is full: free some space, or name a folder on another disk",
    errno.EDQUOT: "your share of the disk is used up: free some space, or name another folder",
    errno.EFBIG: "the file would be too large for this disk: name a folder on another one",
    errno.EROFS: "the disk is read-only: name a folder that can be written",
    errno.EACCES: "it may not be written: change its permissions, or name another folder",
    errno.EPERM: "it may not be written: change its permissions, or name another folder",
    errno.ENOTDIR: "a file is where a folder must be: name another folder",
    errno.EEXIST: "a file is where a folder must be: name another folder",
    errno.EISDIR: "a folder is where a file must be: name another file",
    errno.ENAMETOOLONG: "its name is too long: give a shorter one",
}


@contextmanager
def explain_write_errors(path: str | Path) -> Iterator[None]:
    """Explain an OSError of a known kind in one sentence, which names `path` and suggests a fix.

    The error stays of its class and keeps its `errno`.
    """
    try:
        yield
    except OSError as error:
        hint = HINTS.get(error.errno)
        if hint is None:
            raise
        explained = type(error)(f"{path} cannot be written: {hint}.")
        explained.errno = error.errno
        raise explained from None
