"""Training: stories and a budget in; a model, and the record of every step that made it, out."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from textwrap import shorten

import torch
from torch.amp import GradScaler
from tqdm import tqdm

from slm.batches import Batches, digest, pack
from slm.checkpoint.saving import save_model
from slm.evaluation import evaluate
from slm.generation.text_generation import generate
from slm.hardware.device import pick_device
from slm.hardware.memory import keep_freed_memory, rows_at_once
from slm.hardware.precision import pick_precision
from slm.model.transformer import Transformer
from slm.settings import configure
from slm.stories.cleaning import Stories
from slm.tokenizer.byte_pair import Tokenizer, load_tokenizer
from slm.training.distillation import taught
from slm.training.history import History, Run, Step, StepEvaluation
from slm.training.optimizer import make_optimizers
from slm.training.progress import BAR, finishing_the_step
from slm.training.resume import read_state, restore_state, save_state
from slm.training.schedule import learning_rate_factor
from slm.training.step import train_step
from slm.utils.files import write


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
    `callback` is given the history after every step. Raises ValueError for settings that make no
    sense, a `folder` that holds another run, or a loss that is no longer a number.

    The run is kept in `folder` (by default runs/NAME, after all settings and data), its model as
    `slm.load_model` and transformers read it. The same call continues an interrupted run, to the
    same end, and loads a finished one; a larger budget goes further; `fresh=True` starts over."""
    if not getattr(stories, "train", None) or not getattr(stories, "validation", None):
        raise ValueError("Give stories to train on and others to measure by: slm.load_stories().")
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = load_tokenizer(tokenizer)
    model_config, config = configure(preset, **{"vocab_size": tokenizer.vocab_size} | settings)
    if model_config.vocab_size != tokenizer.vocab_size:
        raise ValueError(f"vocab_size is the tokenizer's, {tokenizer.vocab_size:,}: leave it out.")
    used = asdict(model_config) | asdict(config) | {"tokenizer": tokenizer.digest}
    used["stories"] = [digest(stories.train), digest(stories.validation)]
    used = json.loads(json.dumps(used, default=str), parse_int=float)  # (5,) is [5.0]
    key = hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:8]
    folder = Path(folder or f"runs/{preset}-{key}")
    team = None
    if "WORLD_SIZE" in os.environ:  # torchrun has started several processes
        from slm.hardware.processes import Team

        team = Team.join()
    rank, world_size = (team.rank, team.size) if team else (0, 1)
    keep_freed_memory()
    device = pick_device(config.device)
    model = Transformer(model_config, config.seed).to(device)
    optimizers = make_optimizers(model, config)
    rows = rows_at_once(device, config, model_config, world_size)
    pieces = config.grad_accumulation * config.batch_size // rows
    work = replace(config, batch_size=rows, grad_accumulation=pieces)  # the same step, in pieces
    how = dict(batch_size=rows, context_length=model_config.context_length, seed=config.seed)
    batches = Batches(pack(stories.train, tokenizer), **how, rank=rank, world_size=world_size)
    lessons = taught(batches, config, model, tokenizer) if config.teachers else batches
    step_tokens = config.batch_size * model_config.context_length * config.grad_accumulation
    steps = len(config.schedule or ()) or config.steps or -(-(config.tokens or 0) // step_tokens)
    state, history, share = folder / "training.safetensors", History(), 0.0  # share of the budget
    if state.exists() and not fresh:
        tensors, facts = read_state(state)
        other, share = [x for x in used if used[x] != facts["settings"].get(x)], facts["share"]
        history.steps.extend(Step(**step) for step in facts["history"]["steps"])
        history.evaluations.extend(StepEvaluation(**x) for x in facts["history"]["evaluations"])
        if other:  # a larger budget, if wanted with other teachers, takes the run further
            longer, done = {*other} & {"steps", "tokens", "minutes"}, history.steps[-1]
            share = done.step / steps if steps else done.seconds / 60 / config.minutes
            if share >= 1 or not longer or {*other} - longer - {"teachers", "distillation"}:
                mend = "name another folder, or give fresh=True to replace it"
                raise ValueError(f"{folder} holds a run with other {', '.join(other)}: {mend}.")
        restore_state(tensors, model, optimizers)
        batches.state = facts["batches"]
        what = "Continuing the run" if share < 1 else "Loaded the finished run"
        if rank == 0:
            print(f"{what} in {folder} ({len(history.steps):,} steps); fresh=True trains anew.")
    else:
        if rank == 0:  # so that a crash on the way never brings back the old run
            state.unlink(missing_ok=True)
        torch.manual_seed(config.seed)  # dropout draws from the global state
    if rank:  # and elsewhere in each process
        torch.manual_seed((config.seed + rank) * 2**32 + batches.state)

    run = Run(model, tokenizer, history, folder, config)
    started = time.monotonic() - (history.steps[-1].seconds if history.steps else 0.0)
    shared = team.share(model) if team else model
    if config.compile is True or (config.compile == "auto" and device == "cuda"):
        shared = torch.compile(shared)
    looked = min(len(history.evaluations), int(share * config.evaluations + 1e-9))
    scaler = GradScaler(device, enabled=pick_precision(config.precision, device) == torch.float16)

    def keep() -> None:
        facts = {"settings": used, "batches": batches.state, "share": share}
        save_state(state, model, optimizers, facts | {"history": asdict(history)})
        save_model(folder, model, tokenizer)
        write(folder / "history.json", json.dumps(asdict(history), indent=1).encode())

    look = {"file": sys.stdout, "mininterval": 1.0, "bar_format": BAR}
    look |= {"total": 1.0, "initial": share, "disable": share >= 1 or rank > 0}
    with finishing_the_step() as stop_asked, tqdm(**look) as bar:
        stop = False
        while share < 1 and not stop:
            number, before = len(history.steps) + 1, share
            if config.schedule:
                rate = config.schedule[number - 1]
            else:  # that of the middle of the step: no step is wasted on a rate of 0
                progress = (number - 0.5) / steps if steps else max(share, 1e-3)
                rate = config.learning_rate * learning_rate_factor(progress, config)
            loss, norm = train_step(shared, lessons, optimizers, work, rate, scaler)
            seconds, tokens = time.monotonic() - started, number * step_tokens
            share = number / steps if steps else min(1.0, seconds / 60 / config.minutes)
            if team:
                loss, share = team.mean(loss), team.agree(share)
            history.steps.append(Step(number, loss, rate, norm, tokens, seconds))
            due = number * config.evaluations // steps if steps else share * config.evaluations // 1
            if due > looked and rank == 0:
                looked = due
                bar.write(_look(run, stories.validation), file=sys.stdout)
                keep()
            speed = f"{tokens / max(seconds, 1e-9):,.0f} tokens/s"
            bar.set_postfix_str(f"step {number:,}, loss {loss:.2f}, {speed}", refresh=False)
            bar.update(share - before)
            if callback and rank == 0:
                callback(history)
            stop = team.agree(len(stop_asked)) if team else stop_asked
    if share < 1 and rank == 0:
        keep()
        print(f"Stopped after step {len(history.steps):,}; the same call without fresh goes on.")
    return replace(run, model=model.eval(), finished=share >= 1)


def _look(run: Run, validation: list[str]) -> str:
    """Evaluate a run and write a sample, into its history; a line or two that say so."""
    step, writer = run.history.steps[-1], (run.model, run.tokenizer)
    score = evaluate(*writer, validation[: run.config.evaluation_stories])
    nats, bits = score.nats_per_token, score.bits_per_byte
    text = generate(*writer, "Once upon a time", max_new_tokens=60, seed=run.config.seed)
    run.history.evaluations.append(StepEvaluation(step.step, step.tokens, nats, bits, text))
    scores = f"step {step.step:,}: {nats:.2f} nats per token, {bits:.3f} bits per byte"
    return f"{scores} on validation stories\n    {shorten(text, 92, placeholder=' ...')}"
