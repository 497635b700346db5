"""Does all work on one NVIDIA GPU, and how fast? The same numbers as on the processor, tokens per
second with and without `torch.compile`, how many rows fit, a run that is interrupted and goes on,
writing, and as much of `preset="full"` as the time allows. At most eight minutes.
Run: python tests/benchmarks/gpu.py --data stories.jsonl --minutes 8"""

import argparse
import io
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch
from common import machine, table

import slm

STARTED = time.monotonic()
SMALL = dict(n_layers=2, n_heads=2, d_model=64, context_length=128, batch_size=8)
SMALL |= dict(evaluations=1, evaluation_stories=8, learning_rate=0.005)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, help="stories to learn from: a file or folder (default: TinyStories)")
    add("--n", type=int, default=2_000_000, help="of them at most so many are read")
    add("--minutes", type=float, default=8.0, help="for all of it (default: 8)")
    add("--batch-size", type=int, default=128, help="rows a step in the timings (default: 128)")
    add("--steps", type=int, default=60, help="steps of a timing (default: 60)")
    add("--device", default="cuda", help="another one only to try the script itself")
    return parser.parse_args()


def quietly(stories, **settings):
    """A training run without its bar and its samples."""
    with redirect_stdout(io.StringIO()):
        return slm.train(stories, fresh=settings.pop("fresh", True), **settings)


def gap(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """|a - b| / |b|."""
    return ((ours.cpu().double() - reference.double()).norm() / reference.double().norm()).item()


def check(ours: torch.Tensor, reference: torch.Tensor, close: float, what: str) -> None:
    """Raise ValueError where two results are further apart than rounding explains."""
    apart = (ours - reference).abs().max().item()
    if not apart <= close:
        raise ValueError(f"{what} are {apart:.1e} apart, more than {close}")


def correctness(stories, device: str, folder: Path) -> Iterator[tuple]:
    """The same few steps, scores and stories on the processor and on the GPU."""
    few = replace(stories, train=stories.train[:200])
    settings = SMALL | dict(steps=10, precision="float32", compile=False)
    reference = quietly(few, folder=folder / "cpu", device="cpu", **settings)
    trained = {"float32": dict(), "float32, compiled": dict(compile=True)}
    trained |= {"bfloat16": dict(precision="bfloat16"), "float16": dict(precision="float16")}
    losses = torch.tensor([step.loss for step in reference.history.steps])
    for name, change in trained.items():
        run = quietly(few, folder=folder / "gpu", device=device, **settings | change)
        ours = torch.tensor([step.loss for step in run.history.steps])
        pairs = zip(run.model.parameters(), reference.model.parameters(), strict=True)
        worst = max(gap(a.detach(), b.detach()) for a, b in pairs)
        text = f"losses {(ours - losses).abs().max():.1e} nats apart at most, weights {worst:.1e}"
        yield f"10 steps in {name}, against the processor", text
        close = 1e-4 if name.startswith("float32") else 0.02  # measured on an H100: 1.4e-6, 0.0015
        check(ours, losses, close, f"the losses in {name}")
    model, tokenizer = slm.load_model("stories")
    held = stories.validation[:32]
    scores, texts = [], []
    for place in ("cpu", device):
        scores.append(slm.evaluate(model.to(place), tokenizer, held).bits_per_byte)
        given = dict(temperature=0, max_new_tokens=200)
        drawn = dict(temperature=0.8, max_new_tokens=100, seed=1)
        text = slm.generate(model, tokenizer, "Once upon a time", **given)
        text += slm.generate(model, tokenizer, "One day", **drawn)
        texts.append(tokenizer.encode(text))
    same = sum(a == b for a, b in zip(*texts, strict=False))
    both = ", ".join(f"{score:.5f}" for score in scores)
    yield "bundled model: bits per byte, processor and GPU", both
    check(*map(torch.tensor, scores), 1e-3, "the scores of the bundled model")
    yield "... the same tokens, greedy and drawn", f"{same} of {len(texts[0])}"


def speed(stories, device: str, folder: Path, options: argparse.Namespace) -> Iterator[tuple]:
    """Tokens per second of `preset="full"` and of the bundled model's shape."""
    shapes = {"full": dict(preset="full"), "small": dict(preset="small", learning_rate=0.008)}
    for name, shape in shapes.items():
        for compiled in (False, True):
            settings = shape | dict(batch_size=options.batch_size, steps=options.steps)
            settings |= dict(compile=compiled, device=device, evaluations=1, evaluation_stories=1)
            run = quietly(stories, folder=folder / "speed", **settings)
            steps = run.history.steps
            half = steps[len(steps) // 2 :]
            rate = (half[-1].tokens - half[0].tokens) / (half[-1].seconds - half[0].seconds)
            how = "compiled" if compiled else "not compiled"
            text = f"{rate:,.0f} tokens/s; first step {steps[0].seconds:.1f} s"
            yield f"preset={name!r}, {options.batch_size} rows a step, {how}", text


def rows_that_fit(
    stories, device: str, folder: Path, options: argparse.Namespace
) -> Iterator[tuple]:
    """A step far too large for the GPU is read in pieces that fit."""
    sizes = set()

    def note(module, inputs):
        if isinstance(module, slm.Transformer) and module.training:
            sizes.add(tuple(inputs[0].shape))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    rows = 16 * options.batch_size
    try:
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        shape = dict(preset="full", batch_size=rows, steps=2, compile=False, device=device)
        run = quietly(stories, folder=folder / "rows", evaluations=1, evaluation_stories=1, **shape)
    finally:
        handle.remove()
    most = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    pieces = ", ".join(str(size[0]) for size in sorted(sizes))
    text = f"in pieces of {pieces}; {most:.0f} GiB at most"
    yield f"preset='full', {rows:,} rows a step, not compiled", text
    yield "... tokens/s", f"{run.history.steps[0].tokens / run.history.steps[0].seconds:,.0f}"


def resumed(stories, device: str, folder: Path) -> Iterator[tuple]:
    """A run that is stopped halfway and goes on ends where one ends that never was stopped."""
    few = replace(stories, train=stories.train[:500])
    settings = SMALL | dict(steps=40, dropout=0.1, compile=False, device=device)

    def stop(history) -> None:
        if len(history.steps) == 17:
            os.kill(os.getpid(), signal.SIGINT)

    whole = quietly(few, folder=folder / "whole", **settings)
    half = quietly(few, folder=folder / "half", callback=stop, **settings)
    rest = quietly(few, folder=folder / "half", fresh=False, **settings)
    apart = max(
        abs(a.loss - b.loss) for a, b in zip(whole.history.steps, rest.history.steps, strict=True)
    )
    pairs = zip(rest.model.parameters(), whole.model.parameters(), strict=True)
    worst = max(gap(a.detach(), b.detach().cpu()) for a, b in pairs)
    where = f"stopped after step {len(half.history.steps)} of 40"
    yield f"{where}, then on", f"losses {apart:.1e} nats apart at most, weights {worst:.1e}"
    check(torch.tensor(apart), torch.tensor(0.0), 1e-3, "the losses of the run that went on")


def writing(device: str) -> Iterator[tuple]:
    """Tokens per second of the bundled model, without an early end."""
    model, tokenizer = slm.load_model("stories")
    for place in (device, "cpu"):
        model.to(place)
        for n in (1, 64):
            spent = []
            for seed in range(3):
                begun = time.monotonic()
                written = slm.generate(model, tokenizer, "", n=n, seed=seed, max_new_tokens=200)
                took = time.monotonic() - begun
                spent.append(sum(len(tokenizer.encode(text)) + 1 for text in written) / took)
            what = "one story" if n == 1 else f"{n} stories at once"
            yield f"{what}, on {place}", f"{sorted(spent)[1]:,.0f} tokens/s"


def full(stories, device: str, folder: Path, options: argparse.Namespace) -> Iterator[tuple]:
    """`preset="full"` for as long as there is time."""
    left = options.minutes * 60 - (time.monotonic() - STARTED) - 20
    if left < 20:
        yield "preset='full'", f"no time left ({left:.0f} s)"
        return
    settings = dict(preset="full", minutes=left / 60, device=device, evaluations=4)
    run = quietly(stories, folder=folder / "full", evaluation_stories=200, **settings)
    last, scores = run.history.steps[-1], run.history.evaluations
    size = sum(weight.numel() for weight in run.model.parameters())
    text = f"{last.tokens:,} tokens in {last.seconds:.0f} s"
    yield f"preset='full', {size:,} parameters", text
    yield "... bits per byte on the way", ", ".join(f"{x.bits_per_byte:.3f}" for x in scores)
    whole = 2e9 / last.tokens * last.seconds / 60
    yield "... 2,000,000,000 tokens would take", f"{whole:.0f} minutes"
    story = slm.generate(run.model, run.tokenizer, "Once upon a time", seed=0)
    print(f"\n{story}\n", flush=True)


@contextmanager
def said(rows: list, part: Callable) -> Iterator[None]:
    """One part that fails does not take the others along; it is said, and the script fails."""
    begun = time.monotonic()
    try:
        yield
    except Exception as error:
        rows.append((part.__name__, f"FAILED: {type(error).__name__}: {str(error)[:300]}"))
    print(f"({part.__name__}: {time.monotonic() - begun:.0f} s)", flush=True)


def main() -> None:
    options = arguments()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no NVIDIA GPU here that PyTorch can use: this needs one.")
    stories = slm.load_stories(options.data, n=options.n)
    rows: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as name:
        where = (stories, options.device, Path(name))
        parts = ((correctness, where), (resumed, where), (writing, where[1:2]))
        parts += ((speed, (*where, options)), (rows_that_fit, (*where, options)))
        for part, given in (*parts, (full, (*where, options))):
            with said(rows, part):
                for row in part(*given):
                    rows.append(row)
                    print(*row, sep=": ", flush=True)
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else "no GPU"
    print(f"\n{gpu}, CUDA {torch.version.cuda}; {machine()}\n")
    print(table(("on a GPU", "result"), rows))
    print(f"\n{time.monotonic() - STARTED:.0f} s in all")
    if any(result.startswith("FAILED") for _, result in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
