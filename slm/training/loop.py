"""The training loop, and `train`, which makes ready what the loop needs."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from slm.batches import Batches, pack
from slm.hardware.memory import explain_out_of_memory, keep_freed_memory
from slm.hardware.processes import ProcessGroup
from slm.hardware.threads import AdaptiveThreads
from slm.model.transformer import Transformer
from slm.settings import TrainConfig
from slm.stories.cleaning import Stories
from slm.tokenizer.byte_pair import Tokenizer
from slm.training.budget import Budget
from slm.training.distillation import add_soft_targets
from slm.training.evaluation_callback import EvaluateAndSave, warn_if_worse_than_guessing
from slm.training.history import History, Run, Step
from slm.training.optimizer import make_optimizers
from slm.training.progress import ProgressBar, StopRequest, stop_after_step
from slm.training.resume import open_run
from slm.training.run_folder import RunFolder
from slm.training.run_settings import default_folder, run_settings
from slm.training.setup import TrainingSetup, prepare
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
    setup = prepare(stories, preset, tokenizer, settings)
    run_config = run_settings(setup.model_config, setup.config, setup.tokenizer, stories)
    path = default_folder(preset, run_config) if folder is None else expand_home(folder)
    run_folder = RunFolder(path, run_config)
    is_first = setup.processes.is_first

    with (
        run_folder.lock() if is_first else nullcontext(),
        explain_out_of_memory("set batch_size, context_length or d_model to less"),
    ):
        # Open: resume the run in the folder, or begin one there.
        keep_freed_memory()
        state = new_state(setup, stories.train)
        batches = state.batches
        if setup.config.teachers:
            batches = add_soft_targets(batches, setup.config, state.model, setup.tokenizer)
        open_run(run_folder, state, setup, fresh)
        model = compile_model(setup.processes.wrap(state.model), setup)

        # Loop: optimizer steps, and after each of them the callbacks.
        with (
            stop_after_step() as stop,
            ProgressBar(state.progress, visible=is_first and state.progress < 1) as bar,
            AdaptiveThreads() as adapt_threads,
        ):
            callbacks = [adapt_threads]
            if is_first:
                evaluate = EvaluateAndSave(state, setup, stories.validation, run_folder, bar)
                if state.progress >= 1:
                    evaluate.make_up(state)
                callbacks.append(evaluate)
                callbacks.append(bar.show_state)
                if callback:
                    callbacks.append(lambda state: callback(state.history))
                callbacks = [save_before_errors(callbacks, run_folder, setup.tokenizer, bar)]
            training_loop(
                state,
                model,
                batches,
                setup.step_config,
                setup.budget,
                setup.processes,
                stop,
                callbacks,
            )

            # End: save what is not saved yet; a second signal must not end that.
            bar.close()
            return end_run(state, setup, run_folder)


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

    `slm.train` and `slm.finetune` both train here, each with callbacks of its own, which are called
    after each step. `model` is `state.model`, perhaps compiled, or wrapped for several processes.
    `config` has the size and number of the micro-batches.
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


def new_state(setup: TrainingSetup, stories: Sequence[str]) -> TrainingState:
    """The state of a run before its first step: a new model, and batches of the stories."""
    model = Transformer(setup.model_config, setup.config.seed).to(setup.device)
    return TrainingState(
        model=model,
        batches=make_batches(setup, stories),
        optimizers=make_optimizers(model, setup.config),
        scaler=make_scaler(setup.config, setup.device),
        history=History(),
    )


def make_batches(setup: TrainingSetup, stories: Sequence[str]) -> Batches:
    """This process's share of the micro-batches."""
    return Batches(
        pack(stories, setup.tokenizer),
        batch_size=setup.step_config.batch_size,
        context_length=setup.model_config.context_length,
        seed=setup.config.seed,
        rank=setup.processes.rank,
        world_size=setup.processes.world_size,
        bos_id=setup.tokenizer.bos_id,
        rows_in_step=setup.config.batch_size,
    )


def compile_model(model: nn.Module, setup: TrainingSetup) -> nn.Module:
    """The model compiled by `torch.compile`, if the configuration asks for it."""
    choice = setup.config.compile
    if choice is True or (choice == "auto" and setup.device == "cuda"):
        return torch.compile(model)
    return model


def save_before_errors(
    callbacks: Sequence[Callback], folder: RunFolder, tokenizer: Tokenizer, bar: ProgressBar
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
            bar.close()  # what is said of the save stands below it
            folder.save_after_error(state, tokenizer)
            raise

    return call


def end_run(state: TrainingState, setup: TrainingSetup, folder: RunFolder) -> Run:
    """The run as it has ended; the first process saves what is not saved yet.

    It also says so if the run did not end as it should.
    """
    run = Run(
        model=state.model.eval(),
        tokenizer=setup.tokenizer,
        history=state.history,
        folder=folder.path,
        config=setup.config,
        finished=state.progress >= 1,
    )
    if not setup.processes.is_first:
        return run
    steps = len(run.history.steps)
    if folder.saved_steps != steps:
        folder.save_end(state, run)
    if run.finished:
        warn_if_worse_than_guessing(run.history, run.model.config.vocab_size)
    else:
        say(f"Stopped after step {steps:,}; the same call without fresh=True resumes.")
    return run
