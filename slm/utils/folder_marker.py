"""A small file in each folder says what the folder holds, so that nothing else overwrites it.

It also carries the lock of the process that is training there.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slm.utils.locks import try_lock

MARKER = "slm.json"
RUN = "training run"
MODEL = "model"
FINE_TUNED = "fine-tuned model"


def folder_kind(folder: str | Path) -> str | None:
    """What a folder holds: RUN, MODEL, FINE_TUNED, or None for none of these.

    Folders of earlier versions have no marker; their files show what they hold.
    """
    folder = Path(folder)
    try:
        kind = json.loads((folder / MARKER).read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        kind = None
    if kind in (RUN, MODEL, FINE_TUNED):
        return kind
    if (folder / "training.safetensors").exists():
        return RUN
    if (folder / "model.safetensors").exists():
        return MODEL
    return None


def check_kind(folder: str | Path, kind: str) -> None:
    """Raise ValueError if a folder holds something else than `kind`: RUN, MODEL or FINE_TUNED."""
    held = folder_kind(folder)
    if held not in (None, kind):
        raise ValueError(f"{folder} already holds a {held}: name another folder for this {kind}.")


def claim_folder(folder: str | Path, kind: str) -> None:
    """Mark a folder as one that holds `kind`: RUN, MODEL or FINE_TUNED; make it if need be.

    Raises ValueError if it already holds something of another kind, and OSError if nothing can be
    written there.
    """
    folder = Path(folder)
    check_kind(folder, kind)
    marker = folder / MARKER
    folder.mkdir(parents=True, exist_ok=True)
    with marker.open("a+b") as file:  # never replaced by another file: it carries the lock
        file.seek(0)
        content = (json.dumps({"kind": kind}) + "\n").encode()
        if file.read() != content:
            file.truncate(0)
            file.write(content)


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Keep other processes from training in a claimed folder; ValueError if one is doing so.

    Training a run and fine-tuning both hold the lock until all is saved.

    The lock ends with its process, also when that is killed. On a file system that has no locks,
    as some network drives, it does nothing.
    """
    with (Path(folder) / MARKER).open("r+b") as file:
        try:
            is_locked = try_lock(file)
        except OSError:
            is_locked = True
        if not is_locked:
            raise ValueError(
                f"Another process is training in {folder}: wait for it, or name another folder."
            )
        yield


def remove_if_empty(folder: str | Path) -> None:
    """Remove a claimed folder in which nothing but its marker was ever written."""
    folder = Path(folder)
    if [path.name for path in folder.iterdir()] == [MARKER]:
        (folder / MARKER).unlink()
        folder.rmdir()
