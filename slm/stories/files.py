"""Your own stories, read from files of several kinds.

One function for each kind gives a `Table`: columns of texts by name. `_story_column` chooses among
them. A text file, and a list of texts, is a table of one column.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

from slm.stories.cleaning import END, SHORTEST, Stories, letter_count
from slm.utils.files import ASSETS

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

KINDS = (".txt", ".json", ".jsonl", ".csv", ".parquet")
DELIMITERS = (",", ";", "\t", "|")
MEMORY_PER_BYTE = 3  # of a file: its bytes, its text, and the stories cut from that
MEMORY_PER_ROW = 60  # bytes that Python takes for a text of a Parquet file, beside its letters
LONGEST_FIELD = 2**31 - 1  # characters of one CSV field; Python's own limit is 131,072

_BYTE_ORDER_MARKS = {  # the longer ones first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}

Table = dict[str, list[str]]


def read_stories(source: str | Path) -> list[str]:
    """The stories of a file, or of all files in a folder in the order of their names, not cleaned.

    In a .txt file `<|endoftext|>` separates stories, or else two or more blank lines; the other
    kinds have a column "text" or "story". "lighthouse", where there is no such file, gives the
    tales of a lighthouse robot that come with the package. Raises FileNotFoundError or ValueError,
    naming the file and what is wrong with it.
    """
    stories = []
    for file in _find_files(source):
        try:
            texts = _read_file(file)
        except (ValueError, OSError) as error:
            raise ValueError(f"cannot read stories from {file}: {_reason(error)}") from error
        stories.extend(_split_at_end(texts))
    return stories


def parse_stories(name: str, content: bytes) -> list[str]:
    """The stories of a file that is not on this disk, as `read_stories` gives them.

    `name` says which kind of file it is. Raises ValueError, with that name.
    """
    kind = Path(name).suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{name}: stories are read from {', '.join(KINDS)} files")
    try:
        return _split_at_end(_parse_file(kind, content))
    except ValueError as error:
        raise ValueError(f"cannot read stories from {name}: {_reason(error)}") from error


def _split_at_end(texts: list[str]) -> list[str]:
    return [story for text in texts for story in text.split(END)]


def as_texts(source: object) -> list[str]:
    """The texts that `source` is or names: a file or folder, `Stories`, a list of texts, or rows
    with a column "text" or "story". Raises ValueError, naming what is no text; else as
    `read_stories`."""
    if isinstance(source, str | Path):
        return read_stories(source)
    if isinstance(source, Stories):
        return source.train + source.validation
    if isinstance(source, dict):
        return _story_column(_table_of_columns(source))
    if not isinstance(source, Iterable):
        raise ValueError(f"stories are a file, a folder or a list of texts, not {_name(source)}.")
    items = list(source)
    if items and all(isinstance(item, Path) for item in items):
        return [story for file in items for story in read_stories(file)]
    return _texts_of_items(items)


def _find_files(source: str | Path) -> list[Path]:
    """The files to read: `source` itself, or those of a kind that can be read in a folder."""
    missing = FileNotFoundError(
        f"there is no file or folder {_shorten(repr(str(source)))}: give the path to one"
    )
    if not str(source):
        raise missing
    try:
        path = Path(source).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError, ValueError):  # too long a name, ~nobody, links in a circle
        raise missing from None
    if not exists and str(source) == "lighthouse":
        return [ASSETS / "lighthouse.txt"]
    if not exists:
        raise missing
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.suffix.lower() in KINDS]
    if not files:
        raise ValueError(f"{path}: stories are read from {', '.join(KINDS)} files; this has none")
    return files


def _read_file(file: Path) -> list[str]:
    """What one file holds, text by text. Raises ValueError or OSError."""
    if not file.is_file():
        raise ValueError("it is no file (a folder, a device, or a link that leads nowhere)")
    kind = file.suffix.lower()
    if kind == ".parquet" and file.stat().st_size > 0:
        return _read_parquet(file)  # which need not be in memory as a whole
    _check_memory(MEMORY_PER_BYTE * file.stat().st_size)
    return _parse_file(kind, file.read_bytes())


def _check_memory(needed: int) -> None:
    """Raise ValueError for more bytes than this machine has free: before they are taken."""
    available = psutil.virtual_memory().available
    if needed > available:
        raise ValueError(
            f"it takes about {needed / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} are "
            "free: split it into several files, and give fewer"
        )


def _parse_file(kind: str, content: bytes) -> list[str]:
    """The texts in the content of a file. Raises ValueError."""
    if not content:
        raise ValueError("it is empty")
    if kind == ".parquet":
        return _read_parquet(io.BytesIO(content))
    text = decode(content)
    if kind == ".txt":
        return _split_text(text)
    if kind == ".csv":
        return _read_csv(text)
    if kind == ".jsonl":
        return _texts_of_items(_parse_json_lines(text))
    return _texts_of_json(_parse_json(text))


def _texts_of_json(content: object) -> list[str]:
    """The texts of a JSON file: a list of texts or of rows, or columns by name."""
    if isinstance(content, dict):
        return _story_column(_table_of_columns(content))
    if isinstance(content, list):
        return _texts_of_items(content)
    raise ValueError(f"it holds {_name(content)}, not a list of stories")


def decode(content: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 that says so at its beginning.

    Raises ValueError for another encoding, with what it seems to be and how to convert it.
    """
    encoding = "utf-8"
    for mark, marked in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            encoding = marked
            content = content[len(mark) :]
            break
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(
                f"it begins as {encoding} does, but is damaged ({error.reason})"
            ) from None
        raise ValueError(_describe_encoding(content)) from None
    # UTF-16 without a mark is also UTF-8, with a zero beside each Latin letter.
    if text.count("\0") > len(text) / 10:
        raise ValueError(_describe_encoding(content))
    return text


def _describe_encoding(content: bytes) -> str:
    """A sentence about text that is not UTF-8: what it seems to be, and how to convert it."""
    from charset_normalizer import from_bytes

    wide = ["utf_16_le", "utf_16_be"]
    narrow = ["cp1252", "cp1250", "cp1251", "cp1256", "gb18030", "cp932", "euc_kr", "big5"]
    candidates = wide if content.count(0) > len(content) / 10 else narrow
    guess = from_bytes(content[:100_000], cp_isolation=candidates).best()
    if guess is None:
        return "it is not UTF-8 text: save it as UTF-8"
    name = guess.encoding.replace("_", "-")
    seems = f"seems to be {name}"
    if name in ("cp1250", "cp1252"):  # from the bytes alone nobody can tell one from the other
        name = "cp1252"
        seems = "seems to be cp1252, or cp1250 if its language is one of Central Europe"
    convert = f"p.write_text(p.read_text({name!r}), 'utf-8') with a pathlib.Path p"
    return f"it is not UTF-8 text, but {seems}: save it as UTF-8, or convert it: {convert}"


def _split_text(text: str) -> list[str]:
    """The stories of a text file, which END separates, or else two or more blank lines."""
    if END in text:
        return [text]
    text = text.replace("\r\n", "\n")
    return re.split(r"\n(?:[^\S\n]*\n){2,}", text)


def _read_csv(text: str) -> list[str]:
    """The stories of a CSV file, whatever its delimiter, and with a header or without one."""
    numbered_rows = _csv_rows(text)
    try:
        _, first = next(numbered_rows)
    except StopIteration:
        raise ValueError("it has no line with text") from None
    # A header names its columns in a word or two; a story there means that there is none.
    has_header = all(letter_count(cell) < SHORTEST for cell in first)
    names = first if has_header else [f"column {number}" for number in range(1, len(first) + 1)]
    rows = [] if has_header else [first]
    for line, row in numbered_rows:
        if len(row) > len(first):
            raise ValueError(
                f"line {line:,} has {len(row):,} fields, the first line {len(first):,}: "
                'put "quotation marks" around each story'
            )
        rows.append(row)
    table: Table = {}
    for position, name in enumerate(names):
        cells = [row[position] for row in rows if position < len(row)]
        table[name] = [cell for cell in cells if cell]
    return _story_column(table)


def _csv_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, each with the number of the line it ends in."""
    first_line = text.lstrip().partition("\n")[0]
    unquoted = re.sub(r'"[^"]*"', "", first_line)
    delimiter = max(DELIMITERS, key=unquoted.count)
    limit_before = csv.field_size_limit(LONGEST_FIELD)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num:,} is no CSV ({error})") from None
    finally:
        csv.field_size_limit(limit_before)


def _parse_json(text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def _parse_json_lines(text: str) -> list:
    """One JSON value for each line that is not blank."""
    values = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values.append(_parse_json(line))
        except ValueError as error:
            raise ValueError(f"line {number:,} is no JSON ({error})") from None
    return values


def _read_parquet(file: Path | IO[bytes]) -> list[str]:
    """The stories of a Parquet file. Only the column with the stories is read."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            columns = [column.name for column in table.schema_arrow if _holds_text(column.type)]
            name = _choose_column(columns, list(table.schema_arrow.names))
            _check_memory(_memory_of_rows(table.metadata))
            texts = []
            for batch in table.iter_batches(batch_size=1000, columns=[name]):
                texts.extend(text for text in batch.column(0).to_pylist() if text)
    except (pyarrow.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise ValueError(f"it is damaged, or no Parquet file ({_reason(error)})") from None
    return texts


def _memory_of_rows(metadata: "FileMetaData") -> int:
    """The bytes of all columns, by the file's own account.

    That is more than is read where others are large, and less than the texts take where the file
    stores repeated ones once.

    Not of one column alone: where a file is damaged there, pyarrow ends the process when asked.
    """
    total = MEMORY_PER_ROW * metadata.num_rows
    for group in range(metadata.num_row_groups):
        total += metadata.row_group(group).total_byte_size
    return total


def _holds_text(kind: object) -> bool:
    """Whether a column of this pyarrow type holds strings."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _texts_of_items(items: list) -> list[str]:
    """The texts of a list that has either texts or rows, as dicts, with a column of texts."""
    if items and all(isinstance(item, dict) for item in items):
        table: Table = {}
        for row in items:
            for name, value in row.items():
                column = table.setdefault(str(name), [])
                if isinstance(value, str):
                    column.append(value)
        return _story_column(table)
    for number, item in enumerate(items, start=1):
        if not isinstance(item, str):
            raise ValueError(f"number {number:,} of the stories is {_name(item)}, not a text")
    return [str(item) for item in items]  # also of NumPy's own kind of text


def _table_of_columns(columns: dict) -> Table:
    """A table from a dict that has a list of values for each column."""
    table: Table = {}
    for name, values in columns.items():
        if isinstance(values, dict):  # pandas writes the number of each row with it
            values = list(values.values())
        if isinstance(values, str) or not isinstance(values, Iterable):
            values = [values]
        table[str(name)] = [value for value in values if isinstance(value, str)]
    return table


def _story_column(table: Table) -> list[str]:
    """The column of a table that has the stories. Raises ValueError where it is not plain which."""
    names = [name for name, texts in table.items() if not all(map(_is_number, texts))]
    return table[_choose_column(names, list(table))]


def _choose_column(text_columns: list[str], all_columns: list[str]) -> str:
    """Of the columns that hold texts "text", "story", or the only one there is."""
    for name in ("text", "story"):
        if name in text_columns:
            return name
    if len(text_columns) == 1:
        return text_columns[0]
    shown = _shorten(str(all_columns))
    raise ValueError(f"it has the columns {shown}; call the one with the stories 'text'")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _name(value: object) -> str:
    """A value and its type, short enough for a message."""
    if isinstance(value, dict | list):
        return f"a {type(value).__name__}"
    return _shorten(f"{value!r} ({type(value).__name__})")


def _reason(error: BaseException) -> str:
    """What an error says, in one line of bearable length, without the name of the file."""
    message = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _shorten(" ".join(message.split()))


def _shorten(text: str, limit: int = 300) -> str:
    """`text`, or its beginning where it is long."""
    return text if len(text) <= limit else f"{text[:limit]} ..."
