"""Does all work on one NVIDIA GPU, and how fast? The same numbers as on the processor, tokens per
second with and without `torch.compile`, how many rows fit, a run that is interrupted and resumed,
generation, and as much of `preset="full"` as the time allows. At most eight minutes.
Run: python tests/benchmarks/gpu.py --data stories.jsonl --minutes 8"""

import argparse
import io
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from common import machine, table

import slm
from slm.model import parameter_count
from slm.training.history import Run

STARTED = time.monotonic()
Row = tuple[str, str]  # of the table: what was measured, and the result
SMALL = {
    "n_layers": 2,
    "n_heads": 2,
    "d_model": 64,
    "context_length": 128,
    "batch_size": 8,
    "evaluations": 1,
    "evaluation_stories": 8,
    "learning_rate": 0.005,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a file or folder of stories (None: TinyStories)")
    parser.add_argument("--n", type=int, default=2_000_000, help="of them at most so many are read")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of it")
    parser.add_argument("--batch-size", type=int, default=128, help="rows a step in the timings")
    parser.add_argument("--steps", type=int, default=60, help="of a timing")
    parser.add_argument("--device", default="cuda", help="another only to try the script itself")
    return parser.parse_args()


def train_quietly(stories, *, fresh: bool = True, **settings) -> Run:
    """A training run without its bar and its samples."""
    with redirect_stdout(io.StringIO()):
        return slm.train(stories, fresh=fresh, **settings)


def losses_of(run: Run) -> torch.Tensor:
    """The loss of each step, in nats."""
    return torch.tensor([step.loss for step in run.history.steps])


def largest_gap(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """How far apart two tensors are at most: max |a - b|."""
    return (ours - reference).abs().max().item()


def weights_gap(ours: Run, reference: Run) -> float:
    """|a - b| / |b| of the weights a and b of two runs, of the matrix where it is largest."""
    gaps = []
    for a, b in zip(ours.model.parameters(), reference.model.parameters(), strict=True):
        a = a.detach().cpu().double()
        b = b.detach().cpu().double()
        gaps.append(((a - b).norm() / b.norm()).item())
    return max(gaps)


def check_close(gap: float, tolerance: float, name: str) -> None:
    """Raise ValueError where two results are further apart than rounding explains, or NaN."""
    if not gap <= tolerance:
        raise ValueError(f"{name} are {gap:.1e} apart, more than {tolerance}")


def correctness(stories, device: str, folder: Path) -> Iterator[Row]:
    """The same few steps, scores and stories on the processor and on the GPU."""
    yield from correct_training(stories, device, folder)
    yield from correct_bundled_model(stories, device)


def correct_training(stories, device: str, folder: Path) -> Iterator[Row]:
    """Ten steps in each precision, compared with the processor's in float32."""
    few = replace(stories, train=stories.train[:200])
    settings = {**SMALL, "steps": 10, "precision": "float32", "compile": False}
    reference = train_quietly(few, folder=folder / "cpu", device="cpu", **settings)
    changes = {
        "float32": {},
        "float32, compiled": {"compile": True},
        "bfloat16": {"precision": "bfloat16"},
        "float16": {"precision": "float16"},
    }
    for name, change in changes.items():
        run = train_quietly(few, folder=folder / "gpu", device=device, **settings | change)
        gap = largest_gap(losses_of(run), losses_of(reference))
        weights = weights_gap(run, reference)
        text = f"losses {gap:.1e} nats apart at most, weights {weights:.1e}"
        yield f"10 steps in {name}, against the processor", text
        # Measured on an H100: 1.4e-6 and 0.0015.
        tolerance = 1e-4 if name.startswith("float32") else 0.02
        check_close(gap, tolerance, f"the losses in {name}")


def correct_bundled_model(stories, device: str) -> Iterator[Row]:
    """Scores and stories of the bundled model on both devices."""
    model, tokenizer = slm.load_model("stories")
    held_out = stories.validation[:32]
    scores = []
    ids = []
    for place in ("cpu", device):
        model.to(place)
        scores.append(slm.evaluate(model, tokenizer, held_out).bits_per_byte)
        greedy = {"temperature": 0, "max_new_tokens": 200}
        drawn = {"temperature": 0.8, "max_new_tokens": 100, "seed": 1}
        text = slm.generate(model, tokenizer, "Once upon a time", **greedy)
        text += slm.generate(model, tokenizer, "One day", **drawn)
        ids.append(tokenizer.encode(text))
    both = ", ".join(f"{score:.5f}" for score in scores)
    yield "bundled model: bits per byte, processor and GPU", both
    check_close(abs(scores[0] - scores[1]), 1e-3, "the scores of the bundled model")
    same = sum(a == b for a, b in zip(*ids, strict=False))
    yield "... the same tokens, greedy and drawn", f"{same} of {len(ids[0])}"


def speed(stories, device: str, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Tokens per second of `preset="full"` and of the bundled model's shape."""
    shapes = {
        "full": {"preset": "full"},
        "small": {"preset": "small", "learning_rate": 0.008},
    }
    for name, shape in shapes.items():
        for compiled in (False, True):
            run = train_quietly(
                stories,
                folder=folder / "speed",
                batch_size=options.batch_size,
                steps=options.steps,
                compile=compiled,
                device=device,
                evaluations=1,
                evaluation_stories=1,
                **shape,
            )
            steps = run.history.steps
            middle = steps[len(steps) // 2]
            last = steps[-1]
            rate = (last.tokens - middle.tokens) / (last.seconds - middle.seconds)
            compilation = "compiled" if compiled else "not compiled"
            text = f"{rate:,.0f} tokens/s; first step {steps[0].seconds:.1f} s"
            yield f"preset={name!r}, {options.batch_size} rows a step, {compilation}", text


def rows_that_fit(stories, device: str, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """A step far too large for the GPU is taken in micro-batches that fit."""
    micro_batch_sizes = set()

    def record_rows(module, inputs):
        if isinstance(module, slm.Transformer) and module.training:
            micro_batch_sizes.add(len(inputs[0]))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(record_rows)
    rows = 16 * options.batch_size
    try:
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        run = train_quietly(
            stories,
            folder=folder / "rows",
            preset="full",
            batch_size=rows,
            steps=2,
            compile=False,
            device=device,
            evaluations=1,
            evaluation_stories=1,
        )
    finally:
        handle.remove()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    sizes = ", ".join(str(size) for size in sorted(micro_batch_sizes))
    text = f"in micro-batches of {sizes}; {peak:.0f} GiB at most"
    yield f"preset='full', {rows:,} rows a step, not compiled", text
    first = run.history.steps[0]
    yield "... tokens/s", f"{first.tokens / first.seconds:,.0f}"


def resumed(stories, device: str, folder: Path) -> Iterator[Row]:
    """A run that is stopped halfway and resumed ends where one ends that never was stopped."""
    few = replace(stories, train=stories.train[:500])
    settings = {**SMALL, "steps": 40, "dropout": 0.1, "compile": False, "device": device}

    def stop(history) -> None:
        if len(history.steps) == 17:
            os.kill(os.getpid(), signal.SIGINT)

    whole = train_quietly(few, folder=folder / "whole", **settings)
    half = train_quietly(few, folder=folder / "half", callback=stop, **settings)
    rest = train_quietly(few, folder=folder / "half", fresh=False, **settings)
    gap = largest_gap(losses_of(rest), losses_of(whole))
    text = f"losses {gap:.1e} nats apart at most, weights {weights_gap(rest, whole):.1e}"
    yield f"stopped after step {len(half.history.steps)} of 40, then resumed", text
    check_close(gap, 1e-3, "the losses of the resumed run and the other")


def generation(device: str) -> Iterator[Row]:
    """Tokens per second of the bundled model, the end of each story counted as one."""
    model, tokenizer = slm.load_model("stories")
    for place in (device, "cpu"):
        model.to(place)
        for n in (1, 64):
            rates = []
            for seed in range(3):
                start = time.monotonic()
                stories = slm.generate(model, tokenizer, "", n=n, seed=seed, max_new_tokens=200)
                seconds = time.monotonic() - start
                tokens = sum(len(tokenizer.encode(story)) + 1 for story in stories)
                rates.append(tokens / seconds)
            name = "one story" if n == 1 else f"{n} stories at once"
            yield f"{name}, on {place}", f"{median(rates):,.0f} tokens/s"


def full(stories, device: str, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """`preset="full"` for as long as there is time."""
    seconds_left = options.minutes * 60 - (time.monotonic() - STARTED) - 20
    if seconds_left < 20:
        yield "preset='full'", f"no time left ({seconds_left:.0f} s)"
        return
    run = train_quietly(
        stories,
        folder=folder / "full",
        preset="full",
        minutes=seconds_left / 60,
        device=device,
        evaluations=4,
        evaluation_stories=200,
    )
    last = run.history.steps[-1]
    parameters = parameter_count(run.model.config)
    text = f"{last.tokens:,} tokens in {last.seconds:.0f} s"
    yield f"preset='full', {parameters:,} parameters", text
    scores = [f"{evaluation.bits_per_byte:.3f}" for evaluation in run.history.evaluations]
    yield "... bits per byte on the way", ", ".join(scores)
    minutes = 2e9 / last.tokens * last.seconds / 60
    yield "... 2,000,000,000 tokens would take", f"{minutes:.0f} minutes"
    story = slm.generate(run.model, run.tokenizer, "Once upon a time", seed=0)
    print(f"\n{story}\n", flush=True)


def collect(name: str, part: Iterator[Row]) -> list[Row]:
    """The rows of one part, printed as they come. Where it fails, a row says so: the other parts
    are not to be lost."""
    rows = []
    start = time.monotonic()
    try:
        for row in part:
            rows.append(row)
            print(*row, sep=": ", flush=True)
    except Exception as error:
        rows.append((name, f"FAILED: {type(error).__name__}: {str(error)[:300]}"))
    print(f"({name}: {time.monotonic() - start:.0f} s)", flush=True)
    return rows


def main() -> None:
    """Measure, and print the table. Exits with 1 where a part fails."""
    options = arguments()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no NVIDIA GPU here that PyTorch can use: this needs one.")
    stories = slm.load_stories(options.data, n=options.n)
    device = options.device
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {
            "correctness": correctness(stories, device, folder),
            "resumed": resumed(stories, device, folder),
            "generation": generation(device),
            "speed": speed(stories, device, folder, options),
            "rows that fit": rows_that_fit(stories, device, folder, options),
            "full": full(stories, device, folder, options),  # last: it takes what time is left
        }
        for part_name, part in parts.items():
            rows += collect(part_name, part)
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else "no GPU"
    print(f"\n{gpu}, CUDA {torch.version.cuda}; {machine()}\n")
    print(table(("on a GPU", "result"), rows))
    print(f"\n{time.monotonic() - STARTED:.0f} s in all")
    if any(result.startswith("FAILED") for _, result in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
