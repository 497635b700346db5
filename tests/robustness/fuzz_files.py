"""Damage every kind of file of stories, and a tokenizer's, thousands of times: what comes of it?

    python -m tests.robustness.fuzz_files --count 10000
    python -m tests.robustness.fuzz_files --kinds csv parquet --count 2000 --seed 7

Models are damaged by fuzz_models.py, runs by fuzz_runs.py. Each kind of file is read in a process
of its own, with bounded memory and time. What may come of it:

    sentence    ValueError or FileNotFoundError, in one line that names the file
    accepted    what was read is what it must be: where the kind of file has a checksum or a second
                source, exactly what was written; else whatever the damaged file says
    anything else    another error, a long message, too much memory or time, a dead process
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECONDS = 10.0  # for one file
MEMORY = 2_000_000_000  # bytes beyond what the process has before it reads the first one
LONGEST_MESSAGE = 1_000  # letters

WEIRD_VALUES = [
    None,
    True,
    False,
    0,
    -1,
    0.5,
    2**31,
    2**63,
    10**400,
    1e308,
    float("nan"),
    "",
    "\x00",
]
WEIRD_VALUES += ["x" * 100_000, "\ud800", [], {}, [[]], [None], {"": None}, "🦊", [1] * 1000]
WEIRD_BYTES = [
    b"",
    b"\x00" * 1000,
    b"\xff" * 8,
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'"',
    b"\n" * 999,
]
WEIRD_BYTES += [
    b"9" * 5000,
    b"1e999",
    b"\r",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b",;\t|" * 500,
    b"\xe2\x80",
]


@dataclass(frozen=True)
class Kind:
    """A kind of file: how a sound one is made in a folder, and how a damaged one is read there."""

    make: Callable[[Path], Path]  # gives the file that will be damaged
    read: Callable[[Path], object]  # is given the folder; raises AssertionError for wrong contents
    is_json: bool = False


class TooSlow(BaseException):
    """Reading took longer than SECONDS; no `except Exception` may swallow it."""


# How a file is damaged


def damage(content: bytes, is_json: bool, rng: random.Random) -> bytes:
    """Another content, made from a sound one in one to three random ways."""
    if is_json and rng.random() < 0.5:
        return damage_json(content, rng)
    for _ in range(rng.randint(1, 3)):
        content = damage_bytes(content, rng)
    return content


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut, overwrite, insert, delete, repeat or flip something at a random place."""
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.choice([1, 4, 8, 64, 1024]))
    piece = content[start:end]
    way = rng.randrange(7)
    if way == 0:
        return content[:start]
    if way == 1:
        return content[:start] + rng.randbytes(len(piece)) + content[end:]
    if way == 2:
        return content[:start] + rng.choice(WEIRD_BYTES) + content[start:]
    if way == 3:
        return content[:start] + content[end:]
    if way == 4:
        return content[:end] + piece * rng.choice([1, 2, 50]) + content[end:]
    if way == 5 and piece:
        flipped = piece[0] ^ (1 << rng.randrange(8))
        return content[:start] + bytes([flipped]) + content[start + 1 :]
    return content[:start] + bytes(len(piece)) + content[end:]


def damage_json(content: bytes, rng: random.Random) -> bytes:
    """Replace one value, somewhere in a JSON file, by a weird one; or take it away."""
    data = json.loads(content)
    parent, key = data, None
    while isinstance(parent, dict | list) and parent:
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        key = rng.choice(keys)
        child = parent[key]
        if not isinstance(child, dict | list) or not child or rng.random() < 0.3:
            break
        parent = child
    if rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = rng.choice(WEIRD_VALUES)
    return json.dumps(data).encode()


# The kinds of files: your own stories


def stories() -> list[str]:
    """Some stories, in several scripts."""
    from slm.stories.practice import practice_stories

    others = [
        "从前有一只小兔子，它住在森林里。有一天，它出去玩，遇见了一只小猫。",
        "Zoë said: “¡Olé!” " * 5,
    ]
    return [*practice_stories(12), *others]


def text_file(name: str, separator: str) -> Kind:
    def make(folder: Path) -> Path:
        (folder / name).write_text(separator.join(stories()), encoding="utf-8")
        return folder / name

    return Kind(make, lambda folder: read_own(folder / name))


def csv_file(delimiter: str) -> Kind:
    import csv

    def make(folder: Path) -> Path:
        with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(["id", "text"])
            writer.writerows(enumerate(stories()))
        return folder / "a.csv"

    return Kind(make, lambda folder: read_own(folder / "a.csv"))


def json_file() -> Kind:
    def make(folder: Path) -> Path:
        rows = [{"id": number, "text": story} for number, story in enumerate(stories())]
        (folder / "a.json").write_text(json.dumps(rows), encoding="utf-8")
        return folder / "a.json"

    return Kind(make, lambda folder: read_own(folder / "a.json"), is_json=True)


def json_lines_file() -> Kind:
    def make(folder: Path) -> Path:
        lines = [
            json.dumps({"id": number, "text": story}) for number, story in enumerate(stories())
        ]
        (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return folder / "a.jsonl"

    return Kind(make, lambda folder: read_own(folder / "a.jsonl"))


def parquet_file(compression: str) -> Kind:
    def make(folder: Path) -> Path:
        from datetime import datetime

        from pyarrow import parquet, table

        texts = stories()
        days = [datetime(2026, 1, 1)] * len(texts)
        columns = {"id": list(range(len(texts))), "text": texts, "day": days}
        parquet.write_table(table(columns), folder / "a.parquet", compression=compression)
        return folder / "a.parquet"

    return Kind(make, lambda folder: read_own(folder / "a.parquet"))


def read_own(file: Path) -> None:
    """Read stories as `slm.load_stories` does; all of it must be text."""
    from slm.stories.cleaning import clean_stories
    from slm.stories.files import read_stories

    texts = read_stories(file)
    assert all(type(text) is str for text in texts)
    kept, _ = clean_stories(texts)
    "".join(kept).encode("utf-8")


# The kinds of files: what slm itself writes


def tinystories_cache() -> Kind:
    """The kept TinyStories; where they are damaged, an imitation of `fetch` gives sound ones."""
    from slm.stories import clean_stories, tinystories

    raw = tinystories.RawStories(stories(), stories()[:3], 14, "2026-01-31")

    def make(folder: Path) -> Path:
        os.environ["SLM_CACHE"] = str(folder)
        tinystories._write_cache(raw)
        return folder / tinystories.CACHE_FILE

    def read(folder: Path) -> None:
        os.environ["SLM_CACHE"] = str(folder)
        tinystories.fetch = lambda n, held_out: raw
        loaded, _ = tinystories.load_tinystories(14, 3)
        assert loaded.train == clean_stories(raw.train, ended=True)[0]

    return Kind(make, read)


def tokenizer_file() -> Kind:
    def make(folder: Path) -> Path:
        from slm.tokenizer import train_tokenizer

        train_tokenizer(stories(), 400).save(folder)
        return folder / "tokenizer.json"

    def read(folder: Path) -> None:
        from slm.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(folder)
        text = stories()[-1]
        assert tokenizer.decode(tokenizer.encode(text)) == text

    return Kind(make, read, is_json=True)


KINDS: dict[str, Callable[[], Kind]] = {
    "txt": lambda: text_file("a.txt", "\n<|endoftext|>\n"),
    "txt, blank lines": lambda: text_file("a.txt", "\n\n\n"),
    "csv": lambda: csv_file(","),
    "csv, semicolons": lambda: csv_file(";"),
    "json": json_file,
    "jsonl": json_lines_file,
    "parquet": lambda: parquet_file("snappy"),
    "parquet, zstd": lambda: parquet_file("zstd"),
    "kept TinyStories": tinystories_cache,
    "tokenizer.json": tokenizer_file,
}


# Reading them


def outcome_of(kind: Kind, folder: Path, file: Path) -> str:
    """Read a damaged file, and say what came of it."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        kind.read(folder)
    except (ValueError, FileNotFoundError) as error:
        return judge_message(error, file, folder)
    except TooSlow:
        return f"too slow: over {SECONDS:.0f} s"
    except BaseException as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "accepted"


def judge_message(error: Exception, file: Path, folder: Path) -> str:
    """Whether an error is one clean sentence that names the file or its folder."""
    message = str(error)
    if type(error) not in (ValueError, FileNotFoundError):
        return f"{type(error).__name__}: {message[:120]}"
    if "\n" in message or len(message) > LONGEST_MESSAGE:
        return f"no sentence: {len(message):,} letters, {message[:80]!r}"
    if str(file) not in message and file.name not in message and str(folder) not in message:
        return f"names no file: {message[:120]}"
    if ".part" in message:
        return f"names a temporary file: {message[:120]}"
    return "sentence"


def work(connection, name: str, folder: Path, seed: int, first: int, count: int) -> None:
    """In a process of its own: damage and read files, and send what came of each."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115

    def too_slow(*_: object):
        raise TooSlow

    signal.signal(signal.SIGALRM, too_slow)
    kind = KINDS[name]()
    sound = folder / "sound"
    if not sound.exists():
        sound.mkdir()
        file = kind.make(sound)
        (folder / "name").write_text(str(file.relative_to(sound)))
    relative = (folder / "name").read_text()
    content = (sound / relative).read_bytes()
    outcome = outcome_of(kind, sound, sound / relative)
    assert outcome == "accepted", f"the sound file is not read: {outcome}"
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    connection.send("ready")
    for number in range(first, count):
        rng = random.Random(f"{seed} {name} {number}")
        trial = folder / "trial"
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(sound, trial)
        (trial / relative).write_bytes(damage(content, kind.is_json, rng))
        connection.send(outcome_of(kind, trial, trial / relative))
    connection.close()


def fuzz(name: str, count: int, seed: int) -> Counter:
    """Damage one kind of file `count` times: how often what came of it."""
    outcomes: Counter = Counter()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        while outcomes.total() < count:
            ours, theirs = context.Pipe()
            arguments = (theirs, name, Path(folder), seed, outcomes.total(), count)
            process = context.Process(target=work, args=arguments)
            process.start()
            theirs.close()
            if not ours.poll(120) or ours.recv() != "ready":
                raise RuntimeError(f"{name}: the process with the sound file did not start")
            collect(ours, process, outcomes, count)
            process.kill()
            process.join()
    return outcomes


def collect(connection, process, outcomes: Counter, count: int) -> None:
    """Take in what the process sends, until it is through, or dead, or hangs."""
    while outcomes.total() < count:
        if not connection.poll(2 * SECONDS):
            outcomes["too slow: stopped from outside"] += 1
            return
        try:
            outcomes[connection.recv()] += 1
        except EOFError:
            process.join()
            outcomes[f"the process died (exit code {process.exitcode})"] += 1
            return


def main(arguments: list[str] | None = None) -> int:
    """Print the table; exit with 1 where anything else came than a sentence or acceptance."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="damaged files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args(arguments)
    failures = 0
    print(f"{'kind':<22}{'files':>8}{'sentence':>10}{'accepted':>10}{'else':>6}{'seconds':>9}")
    for name in options.kinds:
        start = time.monotonic()
        outcomes = fuzz(name, options.count, options.seed)
        seconds = time.monotonic() - start
        sentences = outcomes.pop("sentence", 0)
        accepted = outcomes.pop("accepted", 0)
        failures += outcomes.total()
        counts = f"{options.count:>8,}{sentences:>10,}{accepted:>10,}{outcomes.total():>6,}"
        print(f"{name:<22}{counts}{seconds:>9.0f}", flush=True)
        for outcome, times in outcomes.most_common(10):
            print(f"    {times:,} x {outcome}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
