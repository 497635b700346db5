"""A file that other libraries write: whole, or not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from slm.utils.write_errors import explain_write_errors


@contextmanager
def temporary_file(file: Path) -> Iterator[Path]:
    """A path to write to inside the block; afterwards it replaces `file`.

    Where the block fails, it is removed. Raises OSError, in a sentence, where the folder cannot be
    written.
    """
    with explain_write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
            temporary = Path(folder) / file.name
            yield temporary
            temporary.replace(file)
