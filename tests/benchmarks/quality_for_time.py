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

TOKENIZERS = {"slm": "stories", "transformers": "gpt2", "transformers-4096": "stories"}
TOKENIZERS |= {"workshop": "gpt2"}
# Batch sizes and peak learning rates to choose from.
GRID = {"transformers": [*product((2, 4, 8), (1e-3, 2e-3, 4e-3))]}
GRID |= {"transformers-4096": [*product((4, 8, 16), (2e-3, 4e-3, 8e-3))]}
# The winners of --grid; with GPT-2's vocabulary (2, 4e-3) won there, and loses at ten minutes.
BEST = {"transformers": (4, 2e-3), "transformers-4096": (4, 4e-3)}
# As on an older laptop, nothing of AVX-512: PyTorch's own kernels, oneDNN's, MKL's.
OLDER = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
OLDER |= {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}

Batches = Iterator[tuple[Tensor, Tensor]]  # inputs and targets, (B, T) each, without end
Rate = Callable[[float, int], float]  # by the share of the time that is gone, and batches read
Trained = tuple[nn.Module, int, int, float]  # the model, steps, tokens read, seconds


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


def work(job: Job) -> dict:
    """In a process of its own: train one recipe and score it."""
    stories, tokenizer = slm.load_stories(), slm.load_tokenizer(TOKENIZERS[job.recipe])
    train = {"slm": train_slm, "workshop": train_workshop}.get(job.recipe, train_llama)
    model, steps, tokens, seconds = train(job, stories, tokenizer)
    score = slm.evaluate(model, tokenizer, stories.validation[: job.evaluation_stories])
    figures = {"parameters": sum(weight.numel() for weight in model.parameters())}
    figures |= {"steps": steps, "tokens": tokens, "seconds": seconds, "bits": score.bits_per_byte}
    data = f"{len(stories.train):,} stories of {stories.source}; scored on {score.bytes:,} bytes"
    return {"job": asdict(job)} | figures | {"data": data, "machine": machine("transformers")}


def train_slm(job: Job, stories: Stories, tokenizer: Tokenizer) -> Trained:
    """Ours: everything as `slm.train` has it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = dict(minutes=job.minutes, seed=job.seed, fresh=True, device="cpu")
        run = slm.train(stories, tokenizer=tokenizer, folder=folder, **settings)
    last = run.history.steps[-1]
    return run.model, last.step, last.tokens, last.seconds


def train_llama(job: Job, stories: Stories, tokenizer: Tokenizer) -> Trained:
    """The careful user's recipe. Its model is given as `slm.Transformer`: the same weights by the
    same names, and the same scores."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(job.seed)
    shape = dict(num_hidden_layers=4, num_attention_heads=4, hidden_size=128, intermediate_size=352)
    shape |= dict(vocab_size=tokenizer.vocab_size, max_position_embeddings=256, rms_norm_eps=1e-5)
    how = dict(tie_word_embeddings=True, use_cache=False, attn_implementation="sdpa")
    model = LlamaForCausalLM(LlamaConfig(**shape, **how))
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    vectors = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = AdamW(groups, betas=(0.9, 0.95), fused=True)
    texts = [np.array([*tokenizer.encode(text), tokenizer.eot_id]) for text in stories.train]
    batches = packed_rows(texts, job.batch_size, 256, job.seed)

    def rate(share: float, _: int) -> float:  # by the clock, so that it ends when the time does
        up, down = max(share, 1e-3) / 0.05, math.cos(math.pi * (share - 0.05) / 0.95)
        return job.learning_rate * (up if up < 1 else 0.55 + 0.45 * down)

    steps, seconds = learn(job, model, batches, optimizer, rate, clip=1.0, every=1)
    shape = dict(context_length=256, n_layers=4, n_heads=4, d_model=128, d_ff=352)
    copy = slm.Transformer(slm.ModelConfig(tokenizer.vocab_size, **shape))
    weights = dict(model.state_dict())
    weights.pop("lm_head.weight")  # the table of embeddings again
    copy.load_state_dict(weights)
    with torch.no_grad():
        x = next(batches)[0][:1]
        torch.testing.assert_close(copy(x), model.eval()(x).logits, atol=1e-3, rtol=1e-3)
    return copy, steps, steps * job.batch_size * 256, seconds


def train_workshop(job: Job, stories: Stories, tokenizer: Tokenizer) -> Trained:
    """The notebook's recipe. Its model is given with what `slm.evaluate` asks for."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(job.seed)
    shape = dict(vocab_size=tokenizer.vocab_size, n_layer=6, n_head=6, n_embd=384, n_positions=128)
    how = dict(activation_function="gelu", resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
    model = GPT2LMHeadModel(GPT2Config(**shape, **how))
    how = dict(betas=(0.9, 0.95), weight_decay=0.1, eps=1e-9, fused=True)
    optimizer = AdamW(model.parameters(), **how)
    array = np.concatenate([tokenizer.encode(text) for text in stories.train])

    def rate(_: float, batch: int) -> float:  # the cosine rises: it ends at 5e-4, its "minimum"
        if batch < 1000:
            return 1e-4 * (1 + 2 * batch / 1000) / 3
        return 3e-4 - 2e-4 * math.cos(math.pi * min((batch - 1000) / 19_000, 1))

    batches = windows(array, 32, 128, job.seed)
    done, seconds = learn(job, model, batches, optimizer, rate, clip=0.5, every=32)
    return GPT2(model), done // 32, done * 32 * 128, seconds


class GPT2(nn.Module):
    """What `slm.evaluate` asks of a model, around transformers' GPT-2."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.config = inner, SimpleNamespace(context_length=inner.config.n_positions)
        self.device = inner.device

    def check_vocabulary(self, vocab_size: int) -> None:
        """It is the one that the model was trained with."""

    def forward(self, ids: Tensor) -> Tensor:
        """`(B, T)` to `(B, T, V)`."""
        return self.inner(input_ids=ids, use_cache=False).logits


def learn(
    job: Job, model: nn.Module, data: Batches, optimizer: AdamW, rate: Rate, clip: float, every: int
) -> tuple[int, float]:
    """Train until the time is up, with an update after `every` so many batches and gradients no
    longer than `clip`: how many batches were read, and in how many seconds."""
    dtype, done, seconds, told = pick_precision("auto", "cpu"), 0, 0.0, 0
    model.train()
    started = time.monotonic()
    while seconds < job.minutes * 60:
        for group in optimizer.param_groups:
            group["lr"] = rate(seconds / 60 / job.minutes, done)
        x, y = next(data)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            # As fast as the loss that the model itself gives when it is told the labels.
            logits = model(input_ids=x, use_cache=False).logits  # (B, T, V)
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        (loss / every).backward()
        done += 1
        if done % every == 0:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
        seconds = time.monotonic() - started
        if (tenth := int(seconds / job.minutes / 6)) > told:
            told, facts = tenth, f"loss {loss.item():.2f}, learning rate {group['lr']:.1e}"
            print(f"{job.recipe}: {tenth}0 %, batch {done:,}, {facts}", flush=True)
    return done, seconds


def packed_rows(texts: list[np.ndarray], batch_size: int, length: int, seed: int) -> Batches:
    """Each epoch's texts, shuffled, one after the other, cut into rows without a gap."""
    random, size, rest = np.random.default_rng(seed), batch_size * length, texts[0][:0]
    while True:
        array = np.concatenate([rest, *(texts[i] for i in random.permutation(len(texts)))])
        starts = range(0, len(array) - size, size)
        for start in starts:
            x, y = (torch.from_numpy(array[i : i + size]) for i in (start, start + 1))
            yield x.view(batch_size, length), y.view(batch_size, length)
        rest = array[len(starts) * size :]


def windows(array: np.ndarray, batch_size: int, length: int, seed: int) -> Batches:
    """Rows from anywhere."""
    random = np.random.default_rng(seed)
    while True:
        starts = random.integers(0, len(array) - length, batch_size)
        rows = torch.from_numpy(np.stack([array[i : i + length + 1] for i in starts]))
        yield rows[:, :-1], rows[:, 1:]


def result(job: Job, out: Path) -> dict:
    """The figures of a job: those in `out` if it is done already, else of running it now."""
    for line in out.read_text(encoding="utf-8").splitlines():
        if (record := json.loads(line))["job"] == asdict(job):
            return record
    environment = {"OMP_NUM_THREADS": str(job.threads)} | (OLDER if job.older else {})
    with worker(__file__, "--worker", **environment) as go:
        record = go(asdict(job))
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return record


def grid(args: argparse.Namespace, run: Callable[..., dict]) -> None:
    """Print how well each batch size and learning rate does, recipe by recipe."""
    for recipe in [name for name in args.recipes if name in GRID]:
        records = [run(recipe, args.grid_minutes, args.seeds[0], *point) for point in GRID[recipe]]
        rows = []
        for record in sorted(records, key=lambda record: record["bits"]):
            batch_size, rate = record["job"]["batch_size"], record["job"]["learning_rate"]
            speed = record["tokens"] / record["seconds"]
            steps, bits = f"{record['steps']:,}", f"{record['bits']:.4f}"
            rows.append([batch_size, f"{rate:g}", steps, f"{speed:,.0f}", bits])
        print(f"\n{recipe}, {args.grid_minutes:g} minutes each. {records[0]['machine']}\n")
        print(table(["batch size", "learning rate", "steps", "tokens/s", "bits per byte"], rows))


def compare(args: argparse.Namespace, run: Callable[..., dict]) -> None:
    """Print what each recipe reaches, and how soon ours is there."""
    peers = [name for name in args.recipes if name != "slm"]
    budgets = sorted({round(args.minutes * share, 3) for share in (*args.fractions, 1.0)})
    ours = {}
    if "slm" in args.recipes:
        ours = {minutes: [run("slm", minutes, seed) for seed in args.seeds] for minutes in budgets}
    theirs = [run(name, args.minutes, args.seeds[0], *BEST.get(name, ())) for name in peers]
    scores = {minutes: mean(record["bits"] for record in ours[minutes]) for minutes in ours}
    rows = [row(ours[minutes], scores) for minutes in ours] + [row([x], scores) for x in theirs]
    first = (theirs or ours[args.minutes])[0]
    print(f"\n{first['machine']}. {first['data']}.\n")
    header = ["recipe", "minutes", "parameters", "steps", "tokens read", "tokens/s"]
    print(table([*header, "bits per byte", "ratio to slm", "slm reaches it in"], rows))


def row(records: list[dict], scores: dict[float, float]) -> list[str]:
    """A row of the table: the mean over the seeds. `scores` has ours, by the minutes, rising."""
    job, bits = records[0]["job"], [record["bits"] for record in records]
    means = [mean(record[key] for record in records) for key in ("parameters", "steps", "tokens")]
    means.append(means[-1] / mean(record["seconds"] for record in records))
    score = f"{mean(bits):.3f}" + f" ({min(bits):.3f} to {max(bits):.3f})" * (len(bits) > 1)
    cells = [job["recipe"], f"{job['minutes']:g}", *(f"{x:,.0f}" for x in means), score]
    if job["recipe"] == "slm" or not scores:
        return [*cells, "", ""]
    enough = [minutes for minutes in scores if scores[minutes] <= bits[0]][:1]
    short = [minutes for minutes in scores if not enough or minutes < enough[0]][-1:]
    reached = [f"<= {minutes:g} min" for minutes in enough] + [f"> {x:g} min" for x in short]
    return [*cells, f"{bits[0] / scores[job['minutes']]:.2f}", " and ".join(reached)]


def main() -> None:
    """Read the command line, and do what it says."""
    some = lambda kind: lambda text: [kind(part) for part in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--minutes", type=float, default=10.0, help="for each recipe")
    add("--recipes", type=some(str), default=[*TOKENIZERS], help=",".join(TOKENIZERS))
    add("--seeds", type=some(int), default=[0], help="of slm; the others take the first")
    help = "shares of the minutes with which slm is trained too, to see how soon it is there"
    add("--fractions", type=some(float), default=[1 / 10, 1 / 5, 1 / 3], help=help)
    add("--evaluation-stories", type=int, default=300)
    add("--threads", type=int, default=2)
    add("--older", action="store_true", help="as on an older laptop: AVX2, and so float32")
    add("--grid", action="store_true", help="try batch sizes and learning rates instead")
    add("--grid-minutes", type=float, default=2.0)
    add("--out", type=Path, help="where runs are kept; those in it are not repeated")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return serve(lambda job: work(Job(**job)))
    if unknown := ",".join(set(args.recipes) - set(TOKENIZERS)):
        parser.error(f"there is no recipe {unknown}: choose from {','.join(TOKENIZERS)}")
    out = args.out or Path(tempfile.mkdtemp()) / "quality_for_time.jsonl"
    out.touch()
    print(f"Each run is kept in {out}: with --out {out} an interrupted call goes on.", flush=True)

    def run(recipe: str, minutes: float, seed: int, *point: float) -> dict:
        given = (args.older, args.threads, args.evaluation_stories)
        return result(Job(recipe, minutes, seed, *given, *point), out)

    (grid if args.grid else compare)(args, run)


if __name__ == "__main__":
    main()
