"""What is left of training's speed beside another busy program? Tokens per second alone and beside
one process that computes all the time, with the threads adapted to the free cores (as `slm.train`
does) and without, and with OpenMP's own settings. Run: python tests/benchmarks/busy.py

Every candidate is a process of its own, since OpenMP reads its settings when PyTorch is loaded.
They take turns; the busy process runs only while it is wanted. About five minutes."""

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from statistics import median

import torch
from common import in_turns, machine, serve, table, worker

import slm
from slm.hardware.threads import AdaptiveThreads
from slm.training.optimizer import make_optimizers
from slm.training.step import make_scaler, train_step

PLAIN = "PyTorch's threads"
ADAPTIVE = "adapted to free cores"
CANDIDATES = {  # name: OpenMP's environment variables
    PLAIN: {},
    ADAPTIVE: {},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each run (default: 6)")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each (default: 4)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def work(options: argparse.Namespace) -> None:
    """What one worker does: train steps of the default size for so long, as often as asked."""
    model = slm.Transformer(slm.ModelConfig())
    config = slm.TrainConfig(steps=1)
    optimizers = make_optimizers(model, config)
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_size, model.config.context_length + 1)
    ids = torch.randint(model.config.vocab_size, shape, generator=generator)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield ids[:, :-1], ids[:, 1:]

    def run() -> float:
        """Tokens per second. What comes in the first third is not counted: time to adapt."""
        endless = batches()
        scaler = make_scaler(config, "cpu")
        counted = []  # seconds of each step
        adapting = AdaptiveThreads() if options.worker == ADAPTIVE else nullcontext()
        with adapting as adapt:
            start = time.perf_counter()
            passed = 0.0
            while passed < options.seconds or not counted:
                before = time.perf_counter()
                train_step(model, endless, optimizers, config, 0.001, scaler)
                if adapt is not None:
                    adapt()
                if passed > options.seconds / 3:
                    counted.append(time.perf_counter() - before)
                passed = time.perf_counter() - start
        tokens = len(counted) * ids[:, 1:].numel()
        return tokens / sum(counted)

    serve(run)


def spin() -> None:
    while True:
        pass


@contextmanager
def busy_process() -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    if options.worker:
        return work(options)
    given = [__file__, "--seconds", options.seconds, "--worker"]

    def beside(run) -> float:
        with busy_process():
            return run()

    with ExitStack() as stack:
        runs = {}
        for name, environment in CANDIDATES.items():
            run = stack.enter_context(worker(*given, name, **environment))
            runs[name, "alone"] = run
            runs[name, "beside"] = partial(beside, run)
        results = in_turns(runs, options.rounds)
    print(machine())
    print(f"Median of {options.rounds} turns of {options.seconds:g} s; shares of {PLAIN} alone.\n")
    whole = median(results[PLAIN, "alone"])
    rows = []
    for name in CANDIDATES:
        row = [name]
        for when in ("alone", "beside"):
            speed = median(results[name, when])
            row += [f"{speed:,.0f}", f"{speed / whole:.2f}"]
        row.append(f"{min(results[name, 'beside']):,.0f}")
        rows.append(row)
    head = ("threads", "alone, tokens/s", "share", "beside, tokens/s", "share", "slowest")
    print(table(head, rows))


if __name__ == "__main__":
    main()
