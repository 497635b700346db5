"""How fast is a training step? Tokens per second against transformers' Llama of the same shape, and
what share of the processor's own speed that is. Run: python tests/benchmarks/training_speed.py"""

import argparse
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from common import in_turns, machine, serve, table, worker
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

import slm
from slm.hardware.memory import keep_freed_memory
from slm.hardware.precision import pick_precision
from slm.model import parameter_count
from slm.training.optimizer import make_optimizers
from slm.training.step import make_scaler, train_step

OURS = ("slm, muon", "slm, adamw")
THEIRS = ("transformers, adamw, sdpa", "transformers, adamw, eager")
# Where the time of a step goes: the first group with a word that begins the operation's name.
GROUPS = {
    "matrix products": "mm addmm _addmm matmul linear mkldnn",
    "attention": "_scaled_dot_product scaled_dot_product bmm baddbmm softmax _softmax",
    "optimizer, gradient clipping": "_fused_adam _foreach linalg_vector_norm",
    "loss over the vocabulary": "_log_softmax log_softmax nll_loss logsumexp",
    "copies and allocation": "copy _to_copy to empty zero fill new_ clone resize ones contiguous",
    "norms, activations, rotary": "mul add sub div neg cat silu sigmoid sum mean pow rsqrt sqrt "
    "rms_norm _fused_rms_norm cos sin",
}
OPTIMIZER = "optimizer, gradient clipping"
LOSS = "loss over the vocabulary"
OTHER = "other: embedding, views, Python"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--context-length", type=int, default=256)
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--n-layers", type=int, default=4)
    parser.add_argument("--n-heads", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default: 7)")
    parser.add_argument("--steps", type=int, default=5, help="steps in a turn (default: 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def model_config(options: argparse.Namespace) -> slm.ModelConfig:
    names = ("vocab_size", "context_length", "n_layers", "n_heads", "d_model")
    return slm.ModelConfig(**{name: getattr(options, name) for name in names})


def random_batch(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """The one batch that all train on, again and again: `(B, T)` inputs and targets."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch_size, options.context_length + 1)
    rows = torch.randint(options.vocab_size, shape, generator=generator)
    return rows[:, :-1], rows[:, 1:]


def our_step(options: argparse.Namespace, optimizer: str) -> Callable[[], object]:
    """A step as `slm.train` makes it, in a process prepared as it prepares its own."""
    keep_freed_memory()
    config = slm.TrainConfig(steps=1, batch_size=options.batch_size, optimizer=optimizer)
    model = slm.Transformer(model_config(options))
    batches = itertools.repeat(random_batch(options))
    optimizers = make_optimizers(model, config)
    scaler = make_scaler(config, next(model.parameters()).device.type)
    return partial(train_step, model, batches, optimizers, config, config.learning_rate, scaler)


def their_step(options: argparse.Namespace, attention: str) -> Callable[[], object]:
    """The same step as a careful user of transformers writes it, with its "sdpa" or "eager"
    attention. The loss is computed as in ours; `model(labels=...)` takes as long."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = model_config(options)
    grad_clip = slm.TrainConfig(steps=1).grad_clip
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        max_position_embeddings=shape.context_length,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).train()
    ours = parameter_count(shape)
    theirs = model.num_parameters()
    if theirs != ours:
        raise RuntimeError(f"The two models are not the same: {ours:,} and {theirs:,} parameters.")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    x, y = random_batch(options)
    dtype = pick_precision("auto", "cpu")

    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = model(input_ids=x).logits
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        loss.backward()
        loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(step: Callable[[], object], steps: int) -> float:
    """How long one of `steps` steps takes."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def products(options: argparse.Namespace) -> dict[str, float]:
    """GFLOP/s of a large matrix product and of the model's own, the best of several tries each:
    `(B T, C)` times what stands for each matrix."""
    dtype = pick_precision("auto", "cpu")
    config = model_config(options)
    rows = options.batch_size * options.context_length
    C = config.d_model
    M = config.d_ff
    shapes = {f"large: {n} x {n} x {n}": (n, n, n) for n in (1024, 2048, 4096)}
    for name, inner, outer in (
        ("attention", C, C),
        ("MLP, in", C, M),
        ("MLP, out", M, C),
        ("scores", C, config.vocab_size),
    ):
        shapes[f"{name}: {rows} x {inner} x {outer}"] = (rows, inner, outer)
    speeds = {}
    for name, (n, inner, outer) in shapes.items():
        a = torch.randn(n, inner).to(dtype)
        b = torch.randn(inner, outer).to(dtype)
        out = a @ b
        flops = 2 * n * inner * outer
        tries = max(5, min(100, int(2e10 / flops)))
        shortest = math.inf
        for _ in range(tries):
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            shortest = min(shortest, time.perf_counter() - start)
        speeds[name] = flops / shortest / 1e9
    return speeds


def breakdown(step: Callable[[], object], vocab_size: int, steps: int) -> dict[str, float]:
    """The share of a step's time that each group of operations takes, by PyTorch's profiler."""
    seconds(step, 3)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(steps):
            with record_function("step"):
                step()
    times = Counter()
    for event in profiler.events():
        times[_group(event, vocab_size)] += event.self_cpu_time_total
    return {name: times[name] / times.total() for name in (*GROUPS, OTHER)}


def _group(event: FunctionEvent, vocab_size: int) -> str:
    """The group that an operation belongs to."""
    parent = event.cpu_parent
    while parent:
        if parent.name.startswith("Optimizer.step"):
            return OPTIMIZER
        parent = parent.cpu_parent
    group = _group_by_name(event.name.removeprefix("aten::"))
    # What runs over whole rows of scores, be it a copy or a sum, is the price of the loss.
    over_scores = any(shape and shape[-1] == vocab_size for shape in event.input_shapes or ())
    if over_scores and group not in ("matrix products", OPTIMIZER):
        return LOSS
    return group


def _group_by_name(operation: str) -> str:
    for group, beginnings in GROUPS.items():
        if operation.startswith(tuple(beginnings.split())):
            return group
    return OTHER


def flops_per_token(config: slm.ModelConfig) -> float:
    """Of a step: 6 for each number in a matrix (2 forward, 4 backward), the scores' among them, and
    12 L T C for attention, halved because no token looks ahead."""
    C = config.d_model
    L = config.n_layers
    matrices = L * (4 * C * C + 3 * C * config.d_ff) + config.vocab_size * C
    return 6 * matrices + 12 * L * config.context_length * C / 2


def work(options: argparse.Namespace) -> None:
    """What one worker does: a candidate's steps, the matrix products, or the breakdown."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.worker == "products":
        return serve(partial(products, options))
    if options.worker == "breakdown":
        return serve(partial(breakdown, our_step(options, "muon"), options.vocab_size))
    step = their_step if options.worker in THEIRS else our_step
    return serve(partial(seconds, step(options, options.worker.split(", ")[-1])))


def main() -> None:
    """Measure, and print the tables."""
    options = arguments()
    if options.worker:
        return work(options)
    given = [__file__]
    for name, value in vars(options).items():
        if name != "worker":
            given += [f"--{name.replace('_', '-')}", value]
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(worker(*given, "--worker", name)) for name in (*OURS, *THEIRS)
        }
        candidates = {name: partial(run, options.steps) for name, run in workers.items()}
        results = in_turns(candidates, options.rounds)
    step_seconds = {name: median(times) for name, times in results.items()}
    with worker(*given, "--worker", "products") as run:
        speeds = run()
    with worker(*given, "--worker", "breakdown") as run:
        shares = run(options.steps)

    config = model_config(options)
    tokens = options.batch_size * options.context_length
    flops = flops_per_token(config) * tokens
    peak = max(speeds.values())
    low = pick_precision("auto", "cpu") == torch.bfloat16
    print(machine("transformers", threads=options.threads))
    print(
        f"{options.batch_size} rows of {config.context_length} tokens, {config.n_layers} layers of "
        f"width {config.d_model}, vocabulary {config.vocab_size:,}, "
        f"{'bfloat16 autocast' if low else 'float32'}; median of {options.rounds} turns of "
        f"{options.steps} steps.\nA step is {flops / 1e9:.1f} GFLOP: per token, 6 for each number "
        "in a matrix and 6 L T C for causal attention.\n"
    )
    best = min(step_seconds[name] for name in THEIRS)
    rows = []
    for name, each in step_seconds.items():
        speed = flops / each / 1e9
        rows.append(
            (
                name,
                f"{tokens / each:,.0f}",
                f"{best / each:.2f}",
                f"{1000 * each:,.0f}",
                f"{speed:,.0f}",
                f"{speed / peak:.0%}",
            )
        )
    header = ("training", "tokens/s", "x transformers' best", "ms/step", "GFLOP/s", "of the peak")
    print(table(header, rows), end="\n\n")
    rows = [(name, f"{speed:,.0f}", f"{speed / peak:.0%}") for name, speed in speeds.items()]
    print(table(("torch.mm, best", "GFLOP/s", "of the peak"), rows), end="\n\n")
    rows = [(name, f"{share:.0%}") for name, share in shares.items()]
    print(table((f"a step of {OURS[0]}", "of its time"), rows))


if __name__ == "__main__":
    main()
