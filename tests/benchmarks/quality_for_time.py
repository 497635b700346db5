"""What a few minutes on the processor buy: bits per byte after the same time, recipe by recipe.

`python tests/benchmarks/quality_for_time.py --minutes 10` trains every recipe in a process of its
own, one after the other, on the same stories and with as many threads, for the same time by the
clock from the start of the first step. `slm.evaluate` scores them all, outside of that time.

- slm: `slm.train` as it is; its own evaluations, samples and checkpoints are in its time.
- transformers: what a careful user writes with `LlamaForCausalLM`, with GPT-2's vocabulary.
- transformers-4096: the same, with the vocabulary of 4,096 tokens that comes with slm.
- workshop: the recipe of a much copied notebook as it is: GPT-2 with 30 million parameters, no end
  of text between stories (which the score asks for), a schedule stepped 32 times per update. It was
  made for hours on a GPU. In its favour, its evaluations are left out, and it has bfloat16 and the
  fused AdamW, which it does without on a processor.

`--grid` finds the batch size and the learning rate at which the two transformers recipes do best.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from common import machine, serve, table, worker
from torch import Tensor, nn
from torch.optim import AdamW

import slm
from slm.hardware.precision import pick_precision
from slm.stories.cleaning import Stories
from slm.tokenizer.byte_pair import Tokenizer

TOKENIZERS = {  # by recipe
    "slm": "stories",
    "transformers": "gpt2",
    "transformers-4096": "stories",
    "workshop": "gpt2",
}
# Batch sizes and peak learning rates to choose from.
GRID = {
    "transformers": list(product((2, 4, 8), (1e-3, 2e-3, 4e-3))),
    "transformers-4096": list(product((4, 8, 16), (2e-3, 4e-3, 8e-3))),
}
# The winners of --grid; with GPT-2's vocabulary (2, 4e-3) won there, and loses at ten minutes.
BEST = {"transformers": (4, 2e-3), "transformers-4096": (4, 4e-3)}
# As on an older laptop, nothing of AVX-512: PyTorch's own kernels, oneDNN's, MKL's.
OLDER = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}

Batches = Iterator[tuple[Tensor, Tensor]]  # inputs and targets, (B, T) each, without end
Rate = Callable[[float, int], float]  # from the progress, 0 to 1, and how many batches were read


@dataclass(frozen=True)
class Job:
    """One training run: a run in `--out` is found again by all of this."""

    recipe: str
    minutes: float
    seed: int
    older: bool
    threads: int
    evaluation_stories: int
    batch_size: int | None = None  # None: the recipe's own
    learning_rate: float | None = None


@dataclass(frozen=True)
class Trained:
    """What a recipe came to in its time."""

    model: nn.Module
    steps: int
    tokens: int  # read
    seconds: float


def work(job: Job) -> dict:
    """In a process of its own: train one recipe and score it."""
    stories = slm.load_stories()
    tokenizer = slm.load_tokenizer(TOKENIZERS[job.recipe])
    recipes = {"slm": train_slm, "workshop": train_workshop}
    train = recipes.get(job.recipe, train_llama)
    trained = train(job, stories, tokenizer)
    held_out = stories.validation[: job.evaluation_stories]
    score = slm.evaluate(trained.model, tokenizer, held_out)
    return {
        "job": asdict(job),
        "parameters": sum(weight.numel() for weight in trained.model.parameters()),
        "steps": trained.steps,
        "tokens": trained.tokens,
        "seconds": trained.seconds,
        "bits": score.bits_per_byte,
        "data": f"{len(stories.train):,} stories of {stories.source}; "
        f"scored on {score.bytes:,} bytes",
        "machine": machine("transformers"),
    }


def train_slm(job: Job, stories: Stories, tokenizer: Tokenizer) -> Trained:
    """Ours: everything as `slm.train` has it."""
    with tempfile.TemporaryDirectory() as folder:
        run = slm.train(
            stories,
            tokenizer=tokenizer,
            folder=folder,
            minutes=job.minutes,
            seed=job.seed,
            fresh=True,
            device="cpu",
        )
    last = run.history.steps[-1]
    return Trained(run.model, last.step, last.tokens, last.seconds)


def train_llama(job: Job, stories: Stories, tokenizer: Tokenizer) -> Trained:
    """The careful user's recipe. Its model is given as `slm.Transformer`: the same weights by the
    same names, and the same scores."""
    from transformers import LlamaConfig, LlamaForCausalLM

    context_length = 256
    torch.manual_seed(job.seed)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=context_length,
        num_hidden_layers=4,
        num_attention_heads=4,
        hidden_size=128,
        intermediate_size=352,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    vectors = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = AdamW(groups, betas=(0.9, 0.95), fused=True)
    texts = [np.array([*tokenizer.encode(text), tokenizer.eot_id]) for text in stories.train]
    batches = packed_rows(texts, job.batch_size, context_length, job.seed)

    def rate(progress: float, _: int) -> float:  # by the clock, so that it ends when the time does
        warmup = max(progress, 1e-3) / 0.05
        if warmup < 1:
            return job.learning_rate * warmup
        cosine = math.cos(math.pi * (progress - 0.05) / 0.95)
        return job.learning_rate * (0.55 + 0.45 * cosine)

    steps, seconds = train_for_minutes(job, model, batches, optimizer, rate, clip=1.0, every=1)
    tokens = steps * job.batch_size * context_length
    copy = as_transformer(model, next(batches)[0][:1])
    return Trained(copy, steps, tokens, seconds)


def as_transformer(model: nn.Module, ids: Tensor) -> slm.Transformer:
    """The same model as ours: checked with ids `(1, T)`, of which both make the same logits."""
    config = model.config
    copy = slm.Transformer(
        slm.ModelConfig(
            vocab_size=config.vocab_size,
            context_length=config.max_position_embeddings,
            n_layers=config.num_hidden_layers,
            n_heads=config.num_attention_heads,
            d_model=config.hidden_size,
            d_ff=config.intermediate_size,
        )
    )
    weights = dict(model.state_dict())
    weights.pop("lm_head.weight")  # the table of embeddings again
    copy.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(copy(ids), model.eval()(ids).logits, atol=1e-3, rtol=1e-3)
    return copy


def train_workshop(job: Job, stories: Stories, tokenizer: Tokenizer) -> Trained:
    """The notebook's recipe. Its model is given with what `slm.evaluate` asks for."""
    from transformers import GPT2Config, GPT2LMHeadModel

    rows = 32
    context_length = 128
    batches_per_step = 32
    torch.manual_seed(job.seed)
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=context_length,
        n_layer=6,
        n_head=6,
        n_embd=384,
        activation_function="gelu",
        resid_pdrop=0.1,
        embd_pdrop=0.1,
        attn_pdrop=0.1,
    )
    model = GPT2LMHeadModel(config)
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1, eps=1e-9, fused=True)
    ids = np.concatenate([tokenizer.encode(text) for text in stories.train])

    def rate(_: float, batch: int) -> float:  # the cosine rises: it ends at 5e-4, its "minimum"
        if batch < 1000:
            return 1e-4 * (1 + 2 * batch / 1000) / 3
        return 3e-4 - 2e-4 * math.cos(math.pi * min((batch - 1000) / 19_000, 1))

    batches = windows(ids, rows, context_length, job.seed)
    batches_read, seconds = train_for_minutes(
        job, model, batches, optimizer, rate, clip=0.5, every=batches_per_step
    )
    steps = batches_read // batches_per_step
    return Trained(GPT2(model), steps, batches_read * rows * context_length, seconds)


class GPT2(nn.Module):
    """What `slm.evaluate` asks of a model, around transformers' GPT-2."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.config = SimpleNamespace(context_length=inner.config.n_positions)
        self.device = inner.device

    def check_vocabulary(self, vocab_size: int) -> None:
        """It is the one that the model was trained with."""

    def forward(self, ids: Tensor) -> Tensor:
        """`(B, T)` to `(B, T, V)`."""
        return self.inner(input_ids=ids, use_cache=False).logits


def train_for_minutes(
    job: Job,
    model: nn.Module,
    batches: Batches,
    optimizer: AdamW,
    rate: Rate,
    clip: float,
    every: int,
) -> tuple[int, float]:
    """Train until the time is up, with an update after `every` so many batches and gradients no
    longer than `clip`: how many batches were read, and in how many seconds."""
    dtype = pick_precision("auto", "cpu")
    batches_read = 0
    seconds = 0.0
    tenths_reported = 0
    model.train()
    started = time.monotonic()
    while seconds < job.minutes * 60:
        learning_rate = rate(seconds / 60 / job.minutes, batches_read)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        x, y = next(batches)  # (B, T) each
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            # As fast as the loss that the model itself computes where it is given the labels.
            logits = model(input_ids=x, use_cache=False).logits  # (B, T, V)
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        (loss / every).backward()
        batches_read += 1
        if batches_read % every == 0:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
        seconds = time.monotonic() - started
        tenths = int(10 * seconds / 60 / job.minutes)
        if tenths > tenths_reported:
            tenths_reported = tenths
            figures = f"loss {loss.item():.2f}, learning rate {learning_rate:.1e}"
            print(f"{job.recipe}: {tenths}0 %, batch {batches_read:,}, {figures}", flush=True)
    return batches_read, seconds


def packed_rows(texts: list[np.ndarray], batch_size: int, length: int, seed: int) -> Batches:
    """Each epoch's texts, shuffled, one after the other, cut into rows without a gap."""
    random = np.random.default_rng(seed)
    size = batch_size * length
    rest = texts[0][:0]  # what an epoch leaves for the next one's first batch
    while True:
        shuffled = [texts[i] for i in random.permutation(len(texts))]
        ids = torch.from_numpy(np.concatenate([rest, *shuffled]))
        starts = range(0, len(ids) - size, size)
        for start in starts:
            x = ids[start : start + size].view(batch_size, length)
            y = ids[start + 1 : start + 1 + size].view(batch_size, length)
            yield x, y
        rest = ids[len(starts) * size :].numpy()


def windows(ids: np.ndarray, batch_size: int, length: int, seed: int) -> Batches:
    """Rows from anywhere."""
    random = np.random.default_rng(seed)
    while True:
        starts = random.integers(0, len(ids) - length, batch_size)
        rows = np.stack([ids[start : start + length + 1] for start in starts])
        rows = torch.from_numpy(rows)  # (B, T + 1)
        yield rows[:, :-1], rows[:, 1:]


def result(job: Job, out: Path) -> dict:
    """The figures of a job: those in `out` if it is done already, else of running it now."""
    for line in out.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["job"] == asdict(job):
            return record
    environment = {"OMP_NUM_THREADS": str(job.threads)}
    if job.older:
        environment.update(OLDER)
    with worker(__file__, "--worker", **environment) as go:
        record = go(asdict(job))
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return record


def grid(args: argparse.Namespace, run: Callable[..., dict]) -> None:
    """Print how well each batch size and learning rate does, recipe by recipe."""
    for recipe in args.recipes:
        if recipe not in GRID:
            continue
        records = [run(recipe, args.grid_minutes, args.seeds[0], *point) for point in GRID[recipe]]
        rows = []
        for record in sorted(records, key=lambda record: record["bits"]):
            rows.append(
                [
                    record["job"]["batch_size"],
                    f"{record['job']['learning_rate']:g}",
                    f"{record['steps']:,}",
                    f"{record['tokens'] / record['seconds']:,.0f}",
                    f"{record['bits']:.4f}",
                ]
            )
        print(f"\n{recipe}, {args.grid_minutes:g} minutes each. {records[0]['machine']}\n")
        print(table(["batch size", "learning rate", "steps", "tokens/s", "bits per byte"], rows))


def compare(args: argparse.Namespace, run: Callable[..., dict]) -> None:
    """Print what each recipe reaches, and how soon ours is there."""
    ours: dict[float, list[dict]] = {}  # by the minutes: a record for each seed
    if "slm" in args.recipes:
        shares = (*args.fractions, 1.0)
        for minutes in sorted({round(args.minutes * share, 3) for share in shares}):
            ours[minutes] = [run("slm", minutes, seed) for seed in args.seeds]
    theirs = []
    for name in args.recipes:
        if name != "slm":
            theirs.append(run(name, args.minutes, args.seeds[0], *BEST.get(name, ())))

    our_scores = {minutes: mean_of(records, "bits") for minutes, records in ours.items()}
    rows = []
    for records in ours.values():
        rows.append([*figures(records), "", ""])
    for record in theirs:
        rows.append([*figures([record]), *comparison(record, our_scores)])
    first = theirs[0] if theirs else ours[args.minutes][0]
    print(f"\n{first['machine']}. {first['data']}.\n")
    header = ["recipe", "minutes", "parameters", "steps", "tokens read", "tokens/s"]
    print(table([*header, "bits per byte", "ratio to slm", "slm reaches it in"], rows))


def mean_of(records: list[dict], key: str) -> float:
    """The mean of one figure over the records of several seeds."""
    return mean(record[key] for record in records)


def figures(records: list[dict]) -> list[str]:
    """The cells of the table that have a recipe's own figures, the means over its seeds."""
    job = records[0]["job"]
    bits = [record["bits"] for record in records]
    score = f"{mean(bits):.3f}"
    if len(bits) > 1:
        score += f" ({min(bits):.3f} to {max(bits):.3f})"
    tokens = mean_of(records, "tokens")
    return [
        job["recipe"],
        f"{job['minutes']:g}",
        f"{mean_of(records, 'parameters'):,.0f}",
        f"{mean_of(records, 'steps'):,.0f}",
        f"{tokens:,.0f}",
        f"{tokens / mean_of(records, 'seconds'):,.0f}",
        score,
    ]


def comparison(record: dict, our_scores: dict[float, float]) -> tuple[str, str]:
    """How much worse another recipe's score is than ours, and in how many minutes ours is as good.

    `our_scores` are by the minutes, the fewest first."""
    if not our_scores:
        return "", ""
    bits = record["bits"]
    ratio = bits / our_scores[record["job"]["minutes"]]
    reached = None
    too_short = None  # the longest time that is not enough
    for minutes, our_bits in our_scores.items():
        if our_bits <= bits:
            reached = minutes
            break
        too_short = minutes
    parts = []
    if reached is not None:
        parts.append(f"<= {reached:g} min")
    if too_short is not None:
        parts.append(f"> {too_short:g} min")
    return f"{ratio:.2f}", " and ".join(parts)


def text_list(argument: str) -> list[str]:
    """An argument of several texts, with commas between."""
    return argument.split(",")


def int_list(argument: str) -> list[int]:
    """An argument of several whole numbers."""
    return [int(part) for part in argument.split(",")]


def float_list(argument: str) -> list[float]:
    """An argument of several numbers."""
    return [float(part) for part in argument.split(",")]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    names = ",".join(TOKENIZERS)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for each recipe")
    parser.add_argument("--recipes", type=text_list, default=list(TOKENIZERS), help=names)
    parser.add_argument(
        "--seeds", type=int_list, default=[0], help="of slm; the others take the first"
    )
    parser.add_argument(
        "--fractions",
        type=float_list,
        default=[1 / 10, 1 / 5, 1 / 3],
        help="shares of the minutes with which slm is trained too, to see how soon it is there",
    )
    parser.add_argument("--evaluation-stories", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--older", action="store_true", help="as on an older laptop: AVX2, and so float32"
    )
    parser.add_argument(
        "--grid", action="store_true", help="try batch sizes and learning rates instead"
    )
    parser.add_argument("--grid-minutes", type=float, default=2.0)
    parser.add_argument("--out", type=Path, help="a file of runs; those in it are not repeated")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = set(args.recipes) - set(TOKENIZERS)
    if unknown:
        parser.error(f"there is no recipe {','.join(unknown)}: choose from {names}")
    return args


def main() -> None:
    """Train, and print the table."""
    args = parse_arguments()
    if args.worker:
        serve(lambda job: work(Job(**job)))
        return
    out = args.out or Path(tempfile.mkdtemp()) / "quality_for_time.jsonl"
    out.touch()
    print(f"Each run is saved in {out}: with --out {out} an interrupted call resumes.", flush=True)

    def run(
        recipe: str,
        minutes: float,
        seed: int,
        batch_size: int | None = None,
        learning_rate: float | None = None,
    ) -> dict:
        job = Job(
            recipe=recipe,
            minutes=minutes,
            seed=seed,
            older=args.older,
            threads=args.threads,
            evaluation_stories=args.evaluation_stories,
            batch_size=batch_size,
            learning_rate=learning_rate,
        )
        return result(job, out)

    if args.grid:
        grid(args, run)
    else:
        compare(args, run)


if __name__ == "__main__":
    main()
