"""The training loop, and `train`, which prepares all that it needs."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from slm.batches import Batches, pack
from slm.hardware.device import pick_device
from slm.hardware.memory import explain_out_of_memory, keep_freed_memory, rows_at_once
from slm.hardware.processes import ProcessGroup
from slm.hardware.threads import AdaptiveThreads
from slm.model.transformer import Transformer
from slm.settings import ModelConfig, TrainConfig
from slm.stories.cleaning import Stories
from slm.tokenizer.byte_pair import Tokenizer
from slm.training.arguments import as_tokenizer, check_stories, configure_for
from slm.training.budget import Budget
from slm.training.distillation import add_soft_targets
from slm.training.evaluation_callback import EvaluateAndSave, warn_if_worse_than_guessing
from slm.training.history import History, Run, Step
from slm.training.optimizer import make_optimizers
from slm.training.progress import ProgressBar, StopRequest, stop_after_step
from slm.training.resume import open_run
from slm.training.run_folder import RunFolder
from slm.training.run_settings import default_folder, run_settings
from slm.training.state import TrainingState
from slm.training.step import make_scaler, train_step
from slm.utils.files import expand_home
from slm.utils.printing import say

Callback = Callable[[TrainingState], None]  # what is called after each step


def train(
    stories: Stories,
    *,
    preset: str = "tiny",
    tokenizer: str | Path | Tokenizer = "stories",
    folder: str | Path | None = None,
    fresh: bool = False,
    callback: Callable[[History], None] | None = None,
    **settings,
) -> Run:
    """Train a transformer on `stories.train`, evaluated on `stories.validation`.

    `settings` are fields of `ModelConfig` and `TrainConfig`, in place of the preset's. The budget
    is one of `steps`, `tokens`, `minutes`, or `schedule`: a run's `history.schedule`, to replay it.
    `callback` is called with the history after every step; if it raises an exception, the run is
    saved before the exception goes on. Raises ValueError for settings that make no sense or need
    more memory than there is, a `folder` that holds another run or that another process trains in,
    and a loss that is no longer a number; OSError if the folder cannot be written, and SaveError,
    which has the run, if the last save fails.

    The run is saved in `folder` (by default runs/NAME, with a name made from the settings and the
    data), its model as `slm.load_model` and transformers read it. The same call resumes an
    interrupted run, to the same end, and loads a finished one; a larger budget takes it further;
    `fresh=True` starts over.
    """
    # Prepare: settings, data, hardware.
    check_stories(stories)
    tokenizer = as_tokenizer(tokenizer)
    model_config, config = configure_for(tokenizer, preset, settings)
    run_config = run_settings(model_config, config, tokenizer, stories)
    path = default_folder(preset, run_config) if folder is None else expand_home(folder)
    run_folder = RunFolder(path, run_config)
    processes = ProcessGroup.join()
    device = pick_device(config.device)
    step_config = fit_into_memory(config, model_config, device, processes)

    with (
        run_folder.lock() if processes.is_first else nullcontext(),
        explain_out_of_memory("set batch_size, context_length or d_model to less"),
    ):
        keep_freed_memory()
        model = Transformer(model_config, config.seed).to(device)
        batches = make_batches(
            stories.train, tokenizer, config, step_config.batch_size, model_config, processes
        )
        training_batches = batches
        if config.teachers:
            training_batches = add_soft_targets(batches, config, model, tokenizer)

        # Open: resume the run in the folder, or begin one.
        state = new_state(model, batches, config, device)
        budget = Budget.of(config, model_config.context_length)
        open_run(run_folder, state, config, budget, tokenizer, processes, fresh)

        # Loop: optimizer steps, and after each of them the callbacks.
        trained_model = compile_model(processes.wrap(model), config, device)
        show_bar = processes.is_first and state.progress < 1
        with (
            stop_after_step() as stop,
            ProgressBar(state.progress, visible=show_bar) as bar,
            AdaptiveThreads() as adapt_threads,
        ):
            callbacks = [adapt_threads]
            if processes.is_first:
                evaluate_and_save = EvaluateAndSave(
                    state, tokenizer, stories.validation, config, budget, run_folder, bar
                )
                callbacks += [evaluate_and_save, bar.show_state]
                if callback:
                    callbacks.append(lambda state: callback(state.history))
                callbacks = [save_before_errors(callbacks, run_folder, tokenizer)]
            training_loop(
                state,
                trained_model,
                training_batches,
                step_config,
                budget,
                processes,
                stop,
                callbacks,
            )

            # End: save what is not saved yet; a second signal must not end that.
            bar.close()
            finished = state.progress >= 1
            run = Run(model.eval(), tokenizer, state.history, path, config, finished)
            if processes.is_first:
                end_run(run, state, run_folder)
    return run


def fit_into_memory(
    config: TrainConfig, model_config: ModelConfig, device: str, processes: ProcessGroup
) -> TrainConfig:
    """The configuration with micro-batches that fit into memory.

    A step that does not fit is taken in more, smaller micro-batches, with as many rows in all.
    Raises ValueError if not even one row fits.
    """
    rows = rows_at_once(device, config, model_config, processes.world_size)
    rows = int(processes.broadcast(rows))  # the others may have more or less memory free
    micro_batches = config.grad_accumulation * config.batch_size // rows
    return replace(config, batch_size=rows, grad_accumulation=micro_batches)


def make_batches(
    stories: Sequence[str],
    tokenizer: Tokenizer,
    config: TrainConfig,
    micro_batch_size: int,
    model_config: ModelConfig,
    processes: ProcessGroup,
) -> Batches:
    """This process's share of the training stories' micro-batches."""
    return Batches(
        pack(stories, tokenizer),
        batch_size=micro_batch_size,
        context_length=model_config.context_length,
        seed=config.seed,
        rank=processes.rank,
        world_size=processes.world_size,
        bos_id=tokenizer.bos_id,
        rows_in_step=config.batch_size,
    )


def new_state(
    model: Transformer, batches: Batches, config: TrainConfig, device: str
) -> TrainingState:
    """The state of a run before its first step."""
    return TrainingState(
        model=model,
        optimizers=make_optimizers(model, config),
        batches=batches,
        scaler=make_scaler(config, device),
        history=History(),
    )


def compile_model(model: nn.Module, config: TrainConfig, device: str) -> nn.Module:
    """The model compiled by `torch.compile`, if the configuration asks for it."""
    if config.compile is True or (config.compile == "auto" and device == "cuda"):
        return torch.compile(model)
    return model


def save_before_errors(
    callbacks: Sequence[Callback], folder: RunFolder, tokenizer: Tokenizer
) -> Callback:
    """All callbacks as one. Where one raises an exception, it saves the run before passing it on.

    The step before it is complete, so that no work has to be lost. An exception within a step is
    another matter: half a step must not be saved.
    """

    def call(state: TrainingState) -> None:
        try:
            for callback in callbacks:
                callback(state)
        except BaseException:  # a second Ctrl-C, too
            folder.save_after_error(state, tokenizer)
            raise

    return call


def end_run(run: Run, state: TrainingState, folder: RunFolder) -> None:
    """Save what is not saved yet, and say how the run ended if it did not end as it should."""
    steps = len(run.history.steps)
    if folder.saved_steps != steps:
        folder.save_end(state, run)
    if run.finished:
        warn_if_worse_than_guessing(run.history, run.model.config.vocab_size)
    else:
        say(f"Stopped after step {steps:,}; the same call without fresh=True resumes.")


def training_loop(
    state: TrainingState,
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    config: TrainConfig,
    budget: Budget,
    processes: ProcessGroup,
    stop: StopRequest,
    callbacks: Sequence[Callback],
) -> None:
    """Take optimizer steps until the budget is spent or a stop is requested.

    `model` is `state.model`, perhaps compiled, or wrapped for several processes. `config` has the
    size and number of the micro-batches. The callbacks are called after each step.
    """
    model.train()
    steps = state.history.steps
    started = time.monotonic() - state.history.seconds
    stopped = False
    while state.progress < 1 and not stopped:
        number = len(steps) + 1
        learning_rate = budget.learning_rate(config, number, state.progress)
        loss, grad_norm = train_step(
            model, batches, state.optimizers, config, learning_rate, state.scaler
        )
        loss = processes.mean(loss)
        seconds = time.monotonic() - started
        tokens = number * budget.tokens_per_step
        steps.append(Step(number, loss, learning_rate, grad_norm, tokens, seconds))
        state.progress = processes.broadcast(budget.progress(number, seconds))
        for callback in callbacks:
            callback(state)
        stopped = bool(processes.broadcast(stop.requested))
