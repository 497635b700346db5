"""Your own stories, out of files of several kinds (optional: loaded when asked for)."""

import re
from pathlib import Path

from slm.stories.cleaning import END
from slm.utils.files import ASSETS

KINDS = (".txt", ".json", ".jsonl", ".csv", ".parquet")


def read_stories(source: str | Path) -> list[str]:
    """The stories of a file or of all files in a folder, in the order of their names, not cleaned.
    In a .txt file `<|endoftext|>` stands between stories, or else two or more blank lines; the
    other kinds have a column "text" or "story". "lighthouse", where there is no such file, gives
    the tales of a lighthouse robot that come with the package. Raises FileNotFoundError or
    ValueError, naming the file and what is wrong with it."""
    path, texts = Path(source).expanduser(), []
    if str(source) == "lighthouse" and not path.exists():
        path = ASSETS / "lighthouse.txt"
    if not str(source) or not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(source)!r}: give the path to one")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.suffix.lower() in KINDS]
    if not files:
        raise ValueError(f"{path}: stories are read from {', '.join(KINDS)} files; this has none")
    for file in files:
        try:
            texts += [story for text in _texts(file) for story in text.split(END)]
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text: save it as UTF-8") from error
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"cannot read stories from {file}: {error}") from error
    return texts


def _texts(file: Path) -> list[str]:
    """What one file holds, story by story, not yet cleaned."""
    import pandas

    kind = file.suffix.lower()
    if not file.stat().st_size:
        raise ValueError("it is empty")
    if kind == ".txt":
        text = file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        return [text] if END in text else re.split(r"\n\s*\n\s*\n", text)
    read = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet}.get(kind, pandas.read_json)
    table = read(file, lines=True) if kind == ".jsonl" else read(file)
    columns = {name: [text for text in table[name] if isinstance(text, str)] for name in table}
    filled = [texts for texts in columns.values() if texts]
    texts = columns.get("text") or columns.get("story") or (filled[0] if len(filled) == 1 else [])
    if not texts:
        raise ValueError(f"it has the columns {list(table)}; call the one with the stories 'text'")
    return texts
