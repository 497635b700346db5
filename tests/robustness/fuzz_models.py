"""Damage the files of model folders at random, thousands of times, and load each.

    python -m tests.robustness.fuzz_models --cases 10000
    python -m tests.robustness.fuzz_models --cases 2000 --files config.json tokenizer.json

A folder that is damaged must be refused in a clean sentence, or, where what is left is a whole
model, load and work; in bounded memory and time. The table at the end counts both, and anything
else, of which there must be none. A short form runs with the tests."""

import argparse
import copy
import json
import math
import random
import resource
import shutil
import signal
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import slm
from slm.settings import ModelConfig
from slm.tokenizer.training import train_tokenizer
from tests.pretrained import llama2_tokenizer, llama3_tokenizer, publish

SECONDS = 10  # of computing, for one folder: a whole one takes a hundredth of it
MEMORY = 1_500_000_000  # bytes beyond what the libraries take
CLEAN, ACCEPTED, ELSE = "clean sentence", "rightly accepted", "anything else"

DEEP = "a list in a list in a list"  # stands for as many as the library would not write
STRANGE_VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    2**64 + 1,
    10**30,
    10**9,
    1e308,
    1e-308,
    float("nan"),
    float("inf"),
    0.5,
    "",
    "x",
    "</s>",
    "\ud800",
    "y" * 10_000,
    [],
    {},
    [1, 2, 3],
    [[]],
    {"a": 1},
]


@dataclass(frozen=True)
class Finding:
    """One folder that was neither refused cleanly nor right."""

    folder: str
    file: str
    seed: int
    error: str


def base_folders(root: Path) -> list[Path]:
    """Whole folders of each kind: ours, quantized, of others with two kinds of tokenizers."""
    tokenizer = train_tokenizer(["Once upon a time there was a cat. "] * 3, 280)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, context_length=32, n_layers=2, n_heads=4, d_model=32
    )
    model = slm.Transformer(config)
    slm.save_model(root / "ours", model, tokenizer)
    slm.save_model(root / "quantized", slm.quantize(model, 4), tokenizer)
    publish(root / "llama-2", llama2_tokenizer())
    publish(root / "llama-3", llama3_tokenizer())
    return [root / name for name in ("ours", "quantized", "llama-2", "llama-3")]


def damage_bytes(content: bytes, generator: random.Random) -> bytes:
    """Cut off, flip, insert, remove or repeat some bytes."""
    place = generator.randrange(len(content) + 1)
    length = generator.choice([1, 2, 8, 100, len(content) // 2])
    kind = generator.choice(["cut", "flip", "insert", "remove", "repeat", "zeros"])
    if kind == "cut":
        return content[:place]
    if kind == "flip":
        changed = bytearray(content)
        for _ in range(generator.choice([1, 3, 20])):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        return bytes(changed)
    if kind == "insert":
        return content[:place] + generator.randbytes(length) + content[place:]
    if kind == "remove":
        return content[:place] + content[place + length :]
    if kind == "repeat":
        return content[:place] + content[place : place + length] * 2 + content[place + length :]
    return content[:place] + bytes(length) + content[place + length :]


def damage_json(content: bytes, generator: random.Random) -> bytes:
    """Change, remove or rename an entry somewhere in it, or nest it deeply."""
    data = json.loads(content)
    for _ in range(generator.choice([1, 1, 1, 2, 4])):
        parent, key = _random_entry(data, generator)
        kind = generator.choice(["value", "value", "value", "number", "remove", "rename", "deep"])
        old = parent[key]
        if kind == "value" or (kind == "number" and not isinstance(old, int | float)):
            parent[key] = copy.deepcopy(generator.choice(STRANGE_VALUES))
        elif kind == "number":
            parent[key] = generator.choice([old + 1, old - 1, old * 2, -old, old * 10**9, old / 3])
        elif kind == "remove":
            del parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            parent[f"{key}_"] = parent.pop(key)
        elif kind == "deep":
            parent[key] = DEEP
    depth = generator.choice([10, 200, 2_000, 100_000])
    text = json.dumps(data).replace(f'"{DEEP}"', "[" * depth + "1" + "]" * depth)
    return text.encode("utf-8", "surrogatepass")


def _random_entry(data, generator: random.Random):
    """A container and a key or place in it; short paths are likelier."""
    parent = data
    while True:
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        key = generator.choice(keys)
        child = parent[key]
        if not isinstance(child, dict | list) or not child or generator.random() < 0.3:
            return parent, key
        parent = child


def damage_safetensors(content: bytes, generator: random.Random) -> bytes:
    """Change what the header says of the tensors, or numbers among the tensors' bytes."""
    size = struct.unpack("<Q", content[:8])[0]
    header, tensors = content[8 : 8 + size], content[8 + size :]
    if generator.random() < 0.7:
        header = damage_json(header, generator)
        length = len(header) if generator.random() < 0.9 else generator.choice([0, 2**40, 2**63])
        return struct.pack("<Q", length) + header + tensors
    changed = bytearray(tensors)
    place = generator.randrange(0, len(changed) - 4, 4)
    number = generator.choice([float("nan"), float("inf"), 1e38, 0.0])
    changed[place : place + 4] = struct.pack("<f", number)
    return content[: 8 + size] + bytes(changed)


DAMAGE = {
    "config.json": damage_json,
    "generation_config.json": damage_json,
    "tokenizer.json": damage_json,
    "model.safetensors": damage_safetensors,
}


def try_folder(folder: Path) -> str:
    """Load it, and use what loads: CLEAN or ACCEPTED. Raises whatever is neither."""
    try:
        model, tokenizer = slm.load_model(folder)
    except (FileNotFoundError, ValueError) as error:
        sentence = str(error)
        if "\n" in sentence or len(sentence) > 700 or str(folder) not in sentence:
            raise RuntimeError(f"no clean sentence: {sentence[:300]!r}") from error
        return CLEAN
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode("Once upon a time 日 ")][:20]])
    with torch.no_grad():
        model(ids[:, : model.config.context_length])
    slm.generate(model, tokenizer, "Once", max_new_tokens=3, seed=0)
    return ACCEPTED


def damaged_content(base: Path, file: str, seed: int) -> bytes:
    """What a file of a whole folder becomes when it is damaged."""
    generator = random.Random(f"{base.name} {file} {seed}")
    damage = DAMAGE[file] if generator.random() < 0.7 else damage_bytes
    return damage((base / file).read_bytes(), generator)


def fuzz(
    cases: int, root: Path, files: Sequence[str] = tuple(DAMAGE), minutes: float = math.inf
) -> tuple[dict[str, Counter], list[Finding]]:
    """Try so many folders of each file: how often each outcome came, and what must not be.

    After so many minutes it ends with those that were tried.
    """
    bases = base_folders(root)
    copies = [shutil.copytree(base, root / "damaged" / base.name) for base in bases]
    counts = {file: Counter() for file in files}
    findings = []

    def too_slow(signal_number, frame):
        raise TimeoutError(f"it took over {SECONDS} s")

    old_handler = signal.signal(signal.SIGPROF, too_slow)
    end = time.monotonic() + 60 * minutes
    for seed in range(cases):
        if time.monotonic() > end:
            break
        base = bases[seed % len(bases)]
        folder = copies[seed % len(bases)]
        for file, counter in counts.items():
            (folder / file).write_bytes(damaged_content(base, file, seed))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                outcome = try_folder(folder)
            except BaseException as error:  # a panic of Rust's is no Exception
                if isinstance(error, KeyboardInterrupt):
                    raise
                outcome = ELSE
                findings.append(Finding(base.name, file, seed, f"{type(error).__name__}: {error}"))
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            counter[outcome] += 1
            shutil.copyfile(base / file, folder / file)
    signal.signal(signal.SIGPROF, old_handler)
    return counts, findings


def limit_memory() -> None:
    """Let this process take no more than MEMORY beyond what it has by now."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="damaged folders of each file")
    parser.add_argument("--files", nargs="+", choices=DAMAGE, default=list(DAMAGE))
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which it ends")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        base_folders(Path(root) / "warm-up")  # so that all libraries are there
        limit_memory()
        counts, findings = fuzz(options.cases, Path(root), options.files, options.minutes)
    print(f"{'damaged':<24}{'files':>10}{CLEAN:>18}{ACCEPTED:>18}{ELSE:>16}")
    for file, counter in counts.items():
        clean, accepted, other = counter[CLEAN], counter[ACCEPTED], counter[ELSE]
        print(f"{file:<24}{counter.total():>10}{clean:>18}{accepted:>18}{other:>16}")
    for finding in findings[:40]:
        print(finding)


if __name__ == "__main__":
    main()
