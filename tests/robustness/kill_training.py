"""Kill a training process again and again, and see that the run comes to the same end.

    python -m tests.robustness.kill_training --random 25 --writing 25

Each kill is by SIGKILL, at a random moment or while a file is being written. The same call then
resumes; at the end weights, losses and files must be those of a run that nobody disturbed, bit by
bit, and no temporary file may be left. A short form runs with the tests."""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Prints "step" after every step and "writing" in the middle of every file.
CHILD = """
import os, sys, time
import torch

torch.set_num_threads(1)
fsync = os.fsync

def slow_fsync(number):
    print("writing", flush=True)
    time.sleep(float(sys.argv[2]))
    fsync(number)

os.fsync = slow_fsync
from slm.stories.cleaning import Cleaning, Stories
from slm.stories.practice import practice_stories
from slm.training import train

texts = practice_stories(60)
stories = Stories(texts[6:], texts[:6], "practice", True, Cleaning(60, 0, 0, 0, 0, 60))
sizes = dict(d_model=32, n_layers=1, n_heads=2, context_length=32, batch_size=2, dropout=0.1)
train(
    stories, **sizes, steps=40, evaluations=20, evaluation_stories=2, device="cpu",
    folder=sys.argv[1], callback=lambda history: (print("step", flush=True), time.sleep(0.01)),
)
"""


def start(folder: Path, seconds_per_file: float = 0.0) -> subprocess.Popen:
    """The training process; what it prints comes line by line."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SLM_CACHE": str(folder.parent / "cache"),
    }
    command = [sys.executable, "-c", CHILD, str(folder), str(seconds_per_file)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run_to_the_end(folder: Path) -> str:
    """Train until the run is finished; what was said."""
    process = start(folder)
    said, _ = process.communicate(timeout=900)
    if process.returncode:
        raise RuntimeError(said[-2000:])
    return said


def kill_once(folder: Path, word: str, after: int) -> bool:
    """Kill the process when it has said a word so often; False if it had finished by then."""
    process = start(folder, seconds_per_file=0.02 if word == "writing" else 0.0)
    count = 0
    for line in process.stdout:
        count += word in line
        if count > after:
            break
    was_running = count > after
    process.kill()
    process.communicate()
    return was_running


def result(folder: Path) -> dict:
    """All that must be the same in the end: files, but for the seconds in the history."""
    history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    for step in history["steps"]:
        del step["seconds"]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("training.safetensors", "history.json"):  # they have the seconds in them
        files[name] = b""
    return {"history": history, "files": files}


def disturb(word: str, kills: int, root: Path, seed: int = 0) -> list[str]:
    """Kill runs until there were so many kills; what was not as it must be."""
    generator = random.Random(f"{word} {seed}")
    whole = root / "whole"
    if not whole.exists():
        run_to_the_end(whole)
    expected, problems, number, done = result(whole), [], 0, 0
    while done < kills:
        number += 1
        folder = root / f"{word}-{number}"
        for _ in range(min(3, kills - done)):  # then it is let go on
            done += 1
            if not kill_once(folder, word, generator.randrange(1, 60)):
                break
        try:
            run_to_the_end(folder)
            found = result(folder)
        except (RuntimeError, OSError) as error:
            problems.append(f"{folder.name}: {error}")
            continue
        if found["history"] != expected["history"]:
            problems.append(f"{folder.name}: another history")
        if found["files"] != expected["files"]:
            names = {n for n in found["files"] if found["files"][n] != expected["files"].get(n)}
            problems.append(f"{folder.name}: other files {names}")
    return problems


def main() -> None:
    """Print how many kills there were, and what went wrong."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--random", type=int, default=25, help="kills at random moments")
    options.add_argument("--writing", type=int, default=25, help="kills while files are written")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as root:
        for word, kills in (("step", chosen.random), ("writing", chosen.writing)):
            problems = disturb(word, kills, Path(root))
            print(f"{kills} kills, word {word!r}: {len(problems)} problems", *problems, sep="\n")


if __name__ == "__main__":
    main()
