"""Damage state files of runs, and caches of tokens, thousands of times, and open each.

    python -m tests.robustness.fuzz_runs --cases 5000

A damaged state must be refused in a clean sentence, or, where it is still a whole state, be resumed
and train on; a damaged cache must be rebuilt. In bounded memory and time. The table at the end
counts both, and anything else, of which there must be none. A short form runs with the tests."""

import argparse
import contextlib
import io
import json
import math
import os
import random
import resource
import signal
import struct
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch.amp import GradScaler

from slm.batches import Batches, pack
from slm.model.transformer import Transformer
from slm.settings import configure
from slm.stories.cleaning import Cleaning, Stories
from slm.stories.practice import practice_stories
from slm.tokenizer.training import train_tokenizer
from slm.training import train
from slm.training.budget import Budget
from slm.training.history import History
from slm.training.optimizer import make_optimizers
from slm.training.resume import resume
from slm.training.run_folder import RunFolder
from slm.training.run_settings import run_settings
from slm.training.state import TrainingState
from slm.training.step import train_step

SECONDS = 10  # for one file: a whole one takes a hundredth of it
MEMORY = 1_500_000_000  # bytes beyond what the libraries take
CLEAN, ACCEPTED, ELSE = "clean sentence", "rightly accepted", "anything else"

TEXTS = practice_stories(30)
STORIES = Stories(TEXTS[3:], TEXTS[:3], "practice", True, Cleaning(30, 0, 0, 0, 0, 30))
SIZES = {"d_model": 16, "n_layers": 1, "n_heads": 1, "context_length": 16, "batch_size": 2}
SETTINGS = {"steps": 4, "evaluations": 2, "evaluation_stories": 1, "device": "cpu"}
STRANGE = [None, True, -1, 0, 0.5, 2**63, 10**30, 1e308, math.nan, math.inf, "", "x", [], {}, [[]]]


class Runs:
    """One run that was saved, and what it takes to open copies of its state."""

    def __init__(self, root: Path):
        self.tokenizer = train_tokenizer(TEXTS, 270)
        self.folder = root / "run"
        with contextlib.redirect_stdout(io.StringIO()):
            train(
                STORIES,
                **SIZES,
                **SETTINGS,
                tokenizer=self.tokenizer,
                folder=self.folder,
                callback=self._stop,
            )
        self.content = (self.folder / "training.safetensors").read_bytes()
        self.tokens = pack(STORIES.train, self.tokenizer)
        self.model_config, self.config = configure(**SIZES, **SETTINGS, vocab_size=270)

    def _stop(self, history: History) -> None:
        if len(history.steps) == 3:
            signal.raise_signal(signal.SIGINT)

    def open(self, content: bytes) -> str:
        """Resume from such a state file and train a step on; the outcome."""
        settings = run_settings(self.model_config, self.config, self.tokenizer, STORIES)
        run_folder = RunFolder(self.folder, settings)
        run_folder.state_file.write_bytes(content)
        model = Transformer(self.model_config)
        batches = Batches(self.tokens, batch_size=2, context_length=16)
        optimizers = make_optimizers(model, self.config)
        scaler = GradScaler("cpu", enabled=False)
        state = TrainingState(model, optimizers, batches, scaler, History())
        try:
            resume(run_folder, state, Budget.of(self.config, 16))
        except ValueError as error:
            words = str(error)
            is_clean = "\n" not in words and len(words) < 600 and "fresh=True" in words
            return CLEAN if is_clean else f"unclear: {words[:200]}"
        loss, _ = train_step(model, batches, optimizers, self.config, 0.01, scaler)
        return ACCEPTED if math.isfinite(loss) else f"a loss of {loss}"


def damage_bytes(content: bytes, generator: random.Random) -> bytes:
    """Bits that fell over, pieces that are missing, doubled, zero or something else."""
    changed = bytearray(content)
    for _ in range(generator.choice([1, 1, 2, 5])):
        at = generator.randrange(len(changed) + 1)
        size = generator.choice([1, 4, 64, 4096])
        kind = generator.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            del changed[at : at + size]
        elif kind == 2:
            changed[at : at + size] = bytes(len(changed[at : at + size]))
        elif kind == 3:
            changed[at:at] = generator.randbytes(size)
        elif kind == 4:
            changed[at : at + size] = generator.randbytes(len(changed[at : at + size]))
        else:
            del changed[at:]
    return bytes(changed)


def damage_header(content: bytes, generator: random.Random) -> bytes:
    """A safetensors file with strange names, shapes, offsets or facts, and mostly no digest."""
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    if generator.random() < 0.9:
        header["__metadata__"].pop("digest")
    if generator.random() < 0.6:
        facts = json.loads(header["__metadata__"]["facts"])
        _change_something(facts, generator)
        text = json.dumps(facts)
        if generator.random() < 0.1:
            text = text[: generator.randrange(len(text))] + "[" * generator.choice([0, 99, 99_999])
        header["__metadata__"]["facts"] = text
    else:
        _change_something(header, generator)
    if generator.random() < 0.3:
        data = damage_bytes(data, generator)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data


def _change_something(value: dict | list, generator: random.Random) -> None:
    """Change, remove or add one thing somewhere in nested JSON."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = generator.choice(keys)
        is_deep = isinstance(value[key], dict | list) and value[key]
        if is_deep and generator.random() < 0.8:
            value = value[key]
            continue
        kind = generator.randrange(4)
        if kind == 0:
            del value[key]
        elif kind == 1 and isinstance(value, dict):
            value[generator.choice(["x", "", "model/x", "optimizer/0/0/x"])] = value[key]
        elif kind == 2 and isinstance(value[key], int | float):
            value[key] = value[key] * generator.choice([-1, 2, 10**9])
        else:
            value[key] = generator.choice(STRANGE)
        return


class TokenCaches:
    """One cache of tokens, and what must come of damaged copies."""

    def __init__(self, root: Path):
        os.environ["SLM_CACHE"] = str(root / "cache")
        self.tokenizer = train_tokenizer(TEXTS, 270)
        self.expected = np.array(pack(TEXTS, self.tokenizer))
        [self.path] = (root / "cache" / "tokens").glob(f"{self.tokenizer.digest}-*.bin")
        self.content = self.path.read_bytes()

    def open(self, content: bytes) -> str:
        """Pack the stories where there is such a cache; the outcome."""
        self.path.write_bytes(content)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            found = pack(TEXTS, self.tokenizer)
        if not np.array_equal(found, self.expected):
            return "other tokens"
        if content == self.content:
            return ACCEPTED
        return CLEAN if "rebuilding" in said.getvalue() else "nothing was said"


def fuzz(cases: int, root: Path) -> tuple[dict[str, Counter], list[str]]:
    """Try so many of each kind: how often each outcome came, and what must not be."""
    caches = TokenCaches(root)
    runs = Runs(root)
    kinds = {
        "state, bytes": (runs, damage_bytes),
        "state, header": (runs, damage_header),
        "token cache": (caches, damage_bytes),
    }

    def too_slow(signal_number, frame):
        raise TimeoutError(f"it took over {SECONDS} s")

    old_handler = signal.signal(signal.SIGALRM, too_slow)
    counts, findings = {}, []
    for kind, (opener, damage) in kinds.items():
        counts[kind] = Counter()
        for seed in range(cases):
            generator = random.Random(f"{kind} {seed}")
            content = damage(opener.content, generator)
            signal.alarm(SECONDS)
            try:
                outcome = opener.open(content)
            except BaseException as error:  # a panic of Rust's is no Exception
                if isinstance(error, KeyboardInterrupt):
                    raise
                outcome = f"{type(error).__name__}: {error}"
            finally:
                signal.alarm(0)
            if outcome not in (CLEAN, ACCEPTED):
                findings.append(f"{kind} {seed}: {outcome}"[:300])
                outcome = ELSE
            counts[kind][outcome] += 1
    signal.signal(signal.SIGALRM, old_handler)
    return counts, findings


def limit_memory() -> None:
    """Let this process take no more than MEMORY beyond what it has by now."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=1000, help="damaged files of each kind")
    cases = options.parse_args().cases
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "warm-up").mkdir()
        fuzz(5, Path(root) / "warm-up")  # so that all libraries are there
        limit_memory()
        counts, findings = fuzz(cases, Path(root))
    print(f"{'damaged':<24}{CLEAN:>18}{ACCEPTED:>18}{ELSE:>16}")
    for kind, counter in counts.items():
        print(f"{kind:<24}{counter[CLEAN]:>18}{counter[ACCEPTED]:>18}{counter[ELSE]:>16}")
    print(*findings[:40], sep="\n")


if __name__ == "__main__":
    main()
