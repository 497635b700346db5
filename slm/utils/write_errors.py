"""A disk that is full, a folder that cannot be written: said in a sentence, with what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MENDS = {
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
    """Inside, an OSError of a known kind becomes one sentence that names `path` and says what to
    do. It stays of its class and keeps its `errno`."""
    try:
        yield
    except OSError as error:
        mend = MENDS.get(error.errno)
        if mend is None:
            raise
        explained = type(error)(f"{path} cannot be written: {mend}.")
        explained.errno = error.errno
        raise explained from None
