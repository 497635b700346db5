"""Training: stories and a budget in; a model, and the record of every step that made it, out."""

import hashlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from slm.batches import Batches, digest, pack
from slm.checkpoint import read_state, restore_state, save_model, save_state
from slm.evaluation import evaluate
from slm.files import writing
from slm.generation import generate
from slm.model import ModelConfig, Transformer
from slm.optimization import BUDGETS, TrainConfig, learning_rate_factor, make_optimizers
from slm.optimization import pick_device, train_step
from slm.settings import check_choice, split_settings
from slm.stories import Stories
from slm.tokenizer import Tokenizer, load_tokenizer

# One dial: each preset is a budget and what fits it. Any field may be given directly instead.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": dict(minutes=5.0),  # a first story, on two cores: the configurations' own defaults
    "small": dict(minutes=120.0, n_layers=6, d_model=256, context_length=512),  # an evening
    "full": dict(  # four times through all of TinyStories: a GPU's work
        **dict(tokens=2_000_000_000, n_layers=8, n_heads=8, d_model=512, context_length=512),
        **dict(batch_size=128, learning_rate=0.005, compile=True),
    ),
}
SAMPLE_PROMPT = "Once upon a time"
BAR = "{percentage:3.0f}%|{bar:24}| {elapsed} gone, {remaining} left{postfix}"


@dataclass(frozen=True)
class Step:
    """One update of the weights."""

    step: int  # counted from 1
    loss: float  # nats per token, of the batch before the update
    learning_rate: float
    grad_norm: float  # length of the gradient before clipping
    tokens: int  # read so far
    seconds: float  # since the run began, pauses left out


@dataclass(frozen=True)
class StepEvaluation:
    """The score on validation stories after a step."""

    step: int
    tokens: int
    nats_per_token: float
    bits_per_byte: float


@dataclass(frozen=True)
class StepSample:
    """How a story goes after a step."""

    step: int
    text: str


@dataclass(frozen=True)
class History:
    """All that happened in a run."""

    steps: list[Step] = field(default_factory=list)
    evaluations: list[StepEvaluation] = field(default_factory=list)
    samples: list[StepSample] = field(default_factory=list)

    @property
    def schedule(self) -> tuple[float, ...]:
        """The learning rate of each step: `train(..., schedule=...)` with it replays the run."""
        return tuple(step.learning_rate for step in self.steps)

    @staticmethod
    def from_dict(data: dict[str, list[dict]]) -> "History":
        """Turn back what `dataclasses.asdict` made of a history."""
        kinds = {"steps": Step, "evaluations": StepEvaluation, "samples": StepSample}
        return History(**{n: [kind(**item) for item in data[n]] for n, kind in kinds.items()})


@dataclass(frozen=True)
class Run:
    """What `train` gives: the model, and how it came to be."""

    model: Transformer = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    history: History = field(repr=False)
    folder: Path
    config: TrainConfig
    finished: bool = False


def configure(preset: str = "tiny", **settings) -> tuple[ModelConfig, TrainConfig]:
    """A preset's configurations, with any of their fields given directly instead.

    Raises ValueError for an unknown preset, an unknown setting or a value that makes no sense.
    """
    check_choice("preset", preset, *PRESETS)
    values = PRESETS[preset]
    if any(settings.get(name) is not None for name in BUDGETS):
        values = {name: value for name, value in values.items() if name not in BUDGETS}
    model, training = split_settings(values | settings, ModelConfig, TrainConfig)
    return ModelConfig(**model), TrainConfig(**training)


def train(
    stories: Stories,
    *,
    preset: str = "tiny",
    tokenizer: str | Tokenizer = "stories",
    folder: str | Path | None = None,
    fresh: bool = False,
    callback: Callable[[History], None] | None = None,
    **settings,
) -> Run:
    """Train a transformer on `stories.train`, measured on `stories.validation`.

    `settings` are fields of `ModelConfig` and `TrainConfig`, in place of the preset's. The budget
    is one of `steps`, `tokens`, `minutes`, or `schedule`: a run's `history.schedule`, to replay it.
    `callback` is given the history after every step.

    The run is kept in `folder`, by default one under `runs` that is named after all settings and
    data. The model stands there as `slm.load_model` and transformers read it, and history.json
    beside it. The same call continues an interrupted run, to the same end as if it had never been
    interrupted, and loads a finished one; `fresh=True` trains anew.

    Raises ValueError for settings that make no sense, a `folder` that holds another run, or a loss
    that is no longer a number.
    """
    if not getattr(stories, "train", None) or not getattr(stories, "validation", None):
        raise ValueError("Give stories to train on and others to measure by: slm.load_stories().")
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = load_tokenizer(tokenizer)
    model_config, config = configure(preset, **{"vocab_size": tokenizer.vocab_size} | settings)
    if model_config.vocab_size != tokenizer.vocab_size:
        raise ValueError(f"vocab_size is the tokenizer's, {tokenizer.vocab_size:,}: leave it out.")
    used = {
        **asdict(model_config),
        **asdict(config),
        "tokenizer": tokenizer.digest,
        "stories": [digest(stories.train), digest(stories.validation)],
    }
    used = {name: float(x) if type(x) is int else x for name, x in used.items()}  # 5 is 5.0
    used = json.loads(json.dumps(used))  # as it comes back from a file: a tuple is a list
    key = hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:8]
    folder = Path(folder or f"runs/{preset}-{key}")
    model = Transformer(model_config, config.seed).to(pick_device(config))
    optimizers = make_optimizers(model, config)
    batches = Batches(
        pack(stories.train, tokenizer),
        batch_size=config.batch_size,
        context_length=model_config.context_length,
        seed=config.seed,
    )
    run = Run(model, tokenizer, History(), folder, config)
    state, share = folder / "training.safetensors", 0.0  # how much of the budget is spent
    if state.exists() and not fresh:
        tensors, facts = read_state(state)
        other = [name for name in used if used[name] != facts["settings"].get(name)]
        if other:
            raise ValueError(
                f"{folder} holds a run with other {', '.join(other)}: name another folder, or "
                "give fresh=True to replace it."
            )
        restore_state(tensors, model, optimizers)
        batches.state, share = facts["batches"], facts["share"]
        run = replace(run, history=History.from_dict(facts["history"]), finished=share >= 1)
        what = "Loaded the finished run" if run.finished else "Continuing the run"
        print(f"{what} in {folder} ({len(run.history.steps):,} steps); fresh=True trains anew.")
        if run.finished:
            return replace(run, model=model.eval())
    else:
        state.unlink(missing_ok=True)  # so that a crash on the way never brings back the old run
        torch.manual_seed(config.seed)  # dropout draws from the global state

    steps_taken, history = run.history.steps, run.history
    step_tokens = config.batch_size * model_config.context_length * config.grad_accumulation
    steps = len(config.schedule or ()) or config.steps or -(-(config.tokens or 0) // step_tokens)
    started = time.monotonic() - (steps_taken[-1].seconds if steps_taken else 0.0)
    forward = torch.compile(model) if config.compile else model

    def keep() -> None:
        facts = {"settings": used, "batches": batches.state, "share": share}
        save_state(state, model, optimizers, facts | {"history": asdict(history)})
        save_model(folder, model, tokenizer)
        with writing(folder / "history.json") as file:
            file.write(json.dumps(asdict(history), indent=1).encode())

    bar = tqdm(total=1.0, initial=share, file=sys.stdout, mininterval=1.0, bar_format=BAR)
    with finishing_the_step() as stop_asked, bar:
        while share < 1 and not stop_asked():
            number, before = len(steps_taken) + 1, share
            if config.schedule:
                learning_rate = config.schedule[number - 1]
            else:  # that of the middle of the step: no step is wasted on a rate of 0
                progress = (number - 0.5) / steps if steps else max(share, 1e-3)
                learning_rate = config.learning_rate * learning_rate_factor(progress, config)
            loss, norm = train_step(forward, batches, optimizers, config, learning_rate)
            seconds = time.monotonic() - started
            steps_taken.append(
                Step(number, loss, learning_rate, norm, number * step_tokens, seconds)
            )
            share = number / steps if steps else min(1.0, seconds / 60 / config.minutes)
            due = number * config.evaluations // steps if steps else share * config.evaluations // 1
            if due > len(history.evaluations):
                bar.write(_look(run, stories.validation), file=sys.stdout)
                keep()
            speed = f"{number * step_tokens / max(seconds, 1e-9):,.0f} tokens/s"
            bar.set_postfix_str(f"step {number:,}, loss {loss:.2f}, {speed}", refresh=False)
            bar.update(share - before)
            if callback:
                callback(history)
    if share < 1:
        keep()
        print(
            f"Stopped after step {len(steps_taken):,}; the same call, not fresh, goes on from there."
        )
    return replace(run, model=model.eval(), finished=share >= 1)


def _look(run: Run, validation: list[str]) -> str:
    """Evaluate a run and write a sample, into its history; a line or two that say so."""
    step = run.history.steps[-1]
    stories = validation[: run.config.evaluation_stories]
    score = evaluate(run.model, run.tokenizer, stories)
    sample = generate(
        run.model, run.tokenizer, SAMPLE_PROMPT, max_new_tokens=60, seed=run.config.seed
    )
    run.history.evaluations.append(
        StepEvaluation(step.step, step.tokens, score.nats_per_token, score.bits_per_byte)
    )
    run.history.samples.append(StepSample(step.step, sample))
    return (
        f"step {step.step:,}: {score.nats_per_token:.2f} nats per token, "
        f"{score.bits_per_byte:.3f} bits per byte on validation stories\n    "
        f"{' '.join(sample.split())}"
    )


@contextmanager
def finishing_the_step() -> Iterator[Callable[[], bool]]:
    """Hold back Ctrl-C, or a notebook's stop button, and tell by a function whether it came.

    So a step is never left half done. A second Ctrl-C interrupts at once.
    """
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, ask) if in_main_thread else None
    try:
        yield lambda: asked
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, before)
