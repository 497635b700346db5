"""How fast does text become tokens on the disk, and in how much memory? slm.batches.pack against
the Hugging Face tokenizers and a plain loop over tiktoken, with the same vocabulary.
Run: python tests/benchmarks/tokenizing.py --megabytes 100"""

import argparse
import json
import pickle
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from common import in_turns, machine, serve, table, worker

CHUNK = 1000  # stories that are given to the tokenizers library at once


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=100, help="of text (default: 100)")
    parser.add_argument("--stories", help="a source for slm.load_stories (default: its own)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


class Repeated(Sequence):
    """Some stories over and over, `count` in all, in no more memory than once."""

    def __init__(self, stories: list[str], count: int):
        self.stories = stories
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < self.count:
            raise IndexError(i)
        return self.stories[i % len(self.stories)]


def ours(folder: Path) -> Callable[[Sequence[str]], np.ndarray]:
    """With its cache in `folder`, where nothing is kept from before."""
    import slm
    from slm.batches import pack

    tokenizer = slm.load_tokenizer(folder)
    return lambda stories: pack(stories, tokenizer)


def hugging_face(folder: Path) -> Callable[[Sequence[str]], np.ndarray]:
    """Many stories at once, on all cores, without the offsets that nobody asks for."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    eot = tokenizer.token_to_id("<|endoftext|>")

    def rows(stories: Sequence[str]) -> Iterator[list[int]]:
        for start in range(0, len(stories), CHUNK):
            chunk = [stories[i] for i in range(start, min(start + CHUNK, len(stories)))]
            for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
                yield encoding.ids

    return lambda stories: _store(rows(stories), eot, folder / "hugging_face.bin")


def tiktoken_loop(folder: Path) -> Callable[[Sequence[str]], np.ndarray]:
    """One story after the other, on one core, by the encoding that slm's tokenizer wraps."""
    encoding = pickle.loads((folder / "tiktoken.pickle").read_bytes())

    def tokenise(stories: Sequence[str]) -> np.ndarray:
        rows = map(encoding.encode_ordinary, stories)
        return _store(rows, encoding.eot_token, folder / "tiktoken.bin")

    return tokenise


def _store(rows: Iterator[list[int]], eot: int, path: Path) -> np.ndarray:
    """Append row after row to a file, which is then read by memory map."""
    with path.open("wb") as file:
        np.array([eot], np.uint16).tofile(file)
        for ids in rows:
            ids.append(eot)
            file.write(np.array(ids, np.uint16).tobytes())
    return np.memmap(path, np.uint16, "r")


CANDIDATES = {"slm": ours, "tokenizers": hugging_face, "tiktoken loop": tiktoken_loop}


def peak_megabytes() -> float:
    """The most memory that this process has had resident."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss also counts the process that started this one
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def work(options: argparse.Namespace) -> None:
    """What one worker does: tokenise everything once, in a process of its own."""
    folder = Path(options.folder)
    stories, count = json.loads((folder / "stories.json").read_text(encoding="utf-8"))
    tokenise = CANDIDATES[options.worker](folder)
    stories = Repeated(stories, count)

    def measured() -> dict[str, float]:
        before = peak_megabytes()
        processor_start = time.process_time()
        start = time.perf_counter()
        tokens = tokenise(stories)
        return {
            "seconds": time.perf_counter() - start,
            "cpu": time.process_time() - processor_start,
            "before": before,
            "peak": peak_megabytes(),
            "tokens": len(tokens),
            "check": zlib.crc32(tokens),
        }

    serve(measured)


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    if options.worker:
        return work(options)
    import slm

    source = slm.load_stories(options.stories)
    tokenizer = slm.load_tokenizer()
    sizes = [len(story.encode()) for story in source.train]
    count = round(options.megabytes * 1e6 / (sum(sizes) / len(sizes)))
    size = sum(sizes) * (count // len(sizes)) + sum(sizes[: count % len(sizes)])

    def fresh(name: str) -> dict[str, float]:
        with TemporaryDirectory() as folder:
            tokenizer.save(folder)
            (Path(folder) / "tiktoken.pickle").write_bytes(pickle.dumps(tokenizer.encoding))
            stories = json.dumps([source.train[:count], count])
            (Path(folder) / "stories.json").write_text(stories, encoding="utf-8")
            given = [__file__, "--worker", name, "--folder", folder]
            with worker(*given, SLM_CACHE=f"{folder}/cache") as go:
                return go()

    runs = {name: partial(fresh, name) for name in CANDIDATES}
    results = in_turns(runs, options.rounds, warm_ups=0)
    outcomes = {(run["tokens"], run["check"]) for runs in results.values() for run in runs}
    if len(outcomes) > 1:
        raise RuntimeError("The candidates gave different tokens: there is nothing to compare.")
    print(machine("tiktoken", "tokenizers", "numpy"))
    print(
        f"{size / 1e6:,.0f} MB of {source.source}, {count:,} stories, vocabulary of "
        f"{tokenizer.vocab_size:,}: the same {results['slm'][0]['tokens']:,} tokens by "
        f"all; median of {options.rounds} turns.\n"
    )
    middle = {
        name: {key: median(run[key] for run in runs) for key in runs[0]}
        for name, runs in results.items()
    }
    rows = []
    for name, run in middle.items():
        rows.append(
            (
                name,
                f"{size / 1e6 / run['seconds']:.1f}",
                f"{run['seconds'] / middle['slm']['seconds']:.2f}",
                f"{size / 1e6 / run['cpu']:.1f}",
                f"{run['cpu'] / middle['slm']['cpu']:.2f}",
                f"{run['before']:,.0f}",
                f"{run['peak']:,.0f}",
            )
        )
    header = ("tokenising", "MB/s", "slm is x", "MB per second of one core", "slm is x")
    print(table((*header, "MB in memory before", "at the peak"), rows))


if __name__ == "__main__":
    main()
