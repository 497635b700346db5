"""Fine-tuning: a trained model goes on learning, from your own stories."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from slm.evaluation import Evaluation, evaluate
from slm.finetuning.early_stopping import EarlyStopping
from slm.finetuning.epoch_callback import EvaluateEpoch
from slm.finetuning.lora import add_lora
from slm.finetuning.model_folder import claim_and_lock, try_to_save
from slm.finetuning.own_stories import own_stories
from slm.finetuning.replay import ReplayBatches, micro_batches
from slm.finetuning.result import FineTuned
from slm.finetuning.samples import prompts_for, write_samples
from slm.hardware.device import pick_device
from slm.hardware.memory import explain_out_of_memory, keep_freed_memory, rows_at_once
from slm.hardware.processes import ProcessGroup
from slm.hardware.threads import AdaptiveThreads
from slm.model.transformer import Transformer
from slm.settings import FineTuneConfig, TrainConfig
from slm.stories.cleaning import Stories
from slm.stories.loading import load_stories
from slm.tokenizer.byte_pair import Tokenizer
from slm.training.budget import Budget
from slm.training.history import History
from slm.training.loop import training_loop
from slm.training.optimizer import Optimizers, make_optimizers
from slm.training.progress import ProgressBar, StopRequest, stop_after_step
from slm.training.state import TrainingState
from slm.training.step import DivergedError, make_scaler
from slm.utils.files import expand_home
from slm.utils.printing import say
from slm.utils.settings_checks import split_settings

Callback = Callable[[float, list[float]], bool | None]


def finetune(
    model: Transformer,
    tokenizer: Tokenizer,
    stories: str | Path | Sequence[str],
    *,
    ordinary: Stories | None = None,
    folder: str | Path | None = None,
    callback: Callback | None = None,
    **settings,
) -> FineTuned:
    """Fine-tune a copy of a model on your own stories, and save it in `folder`, if one is named.

    `stories` is a file or a folder of them, or a list of texts, of any length; or "lighthouse", the
    tales that come with the package. `settings` are fields of `FineTuneConfig`. After every step
    `callback` is called with the progress, from 0 to 1, and the scores of the epochs measured so
    far, in nats per token; an epoch is measured after the call for its last step. Where it returns
    True, training stops after that step, as with Ctrl-C.

    Some of your stories are held out: the model is scored on them after each epoch, and the weights
    of the best epoch are kept, also when the run is stopped or its loss becomes NaN later on. An
    exception, as of the callback, is passed on once they are saved. Against forgetting, a share of
    each batch comes from `ordinary` stories (default: `slm.load_stories(n=2000)`).

    With `lora_rank` the model's weights are frozen, and the library peft trains small matrices
    beside them (LoRA, Hu et al. 2021, arXiv:2106.09685). peft can load these from
    `folder / "adapter"`.

    Raises ValueError for settings that make no sense, for too few stories, for a `folder` that
    holds something else than a fine-tuned model of this shape or that another process trains in,
    and for a loss that becomes NaN before any epoch was better than the model at the start; OSError
    where nothing can be written in `folder`. If only the last save fails, a message says so, and
    the model is still returned. Nothing is saved if the run is stopped before its first epoch ends.
    """
    folder = None if folder is None else expand_home(folder)
    (settings,) = split_settings(settings, FineTuneConfig)
    config = FineTuneConfig(**settings)
    _check_trainable(model, tokenizer)
    context_length = model.config.context_length
    max_tokens = context_length - 1  # the last one is the end of text
    own, held_out = own_stories(stories, tokenizer, max_tokens, config.held_out, config.seed)
    ordinary = ordinary or load_stories(n=2_000)
    batches = ReplayBatches(own, ordinary.train, tokenizer, context_length, config)
    scored_stories = {"yours": held_out, "ordinary": ordinary.validation[:100]}

    # The folder shows what is wrong with it before hours of training; and until all is saved, a
    # signal that ends the process only stops the training.
    with claim_and_lock(folder, model, tokenizer), stop_after_step() as stop:
        tuned = copy.deepcopy(model)
        tuned.to(pick_device(config.device)).requires_grad_(True)
        before = _evaluate_all(tuned, tokenizer, scored_stories)
        train_config = _train_config(config, steps=config.epochs * batches.steps_per_epoch)
        adapter, optimizers = _choose_weights(tuned, config, train_config)
        early_stopping = EarlyStopping(tuned, before["yours"].nats_per_token, config.patience)
        evaluate_epoch = EvaluateEpoch(
            tokenizer, held_out, batches.steps_per_epoch, early_stopping, stop
        )
        with (
            _save_before_errors(folder, tokenizer, adapter, early_stopping),
            explain_out_of_memory("set batch_size to less"),
        ):
            _train_epochs(tuned, batches, optimizers, train_config, evaluate_epoch, stop, callback)
        tuned = _merge(tuned, adapter)
        is_saved = _save_end(folder, tuned, tokenizer, adapter, epochs=len(early_stopping.scores))
    return FineTuned(
        model=tuned,
        tokenizer=tokenizer,
        before=before,
        after=_evaluate_all(tuned, tokenizer, scored_stories),
        samples=write_samples(model, tuned, tokenizer, prompts_for(ordinary), config.seed),
        epochs=early_stopping.scores,
        folder=folder if is_saved else None,
    )


def _check_trainable(model: Transformer, tokenizer: Tokenizer) -> None:
    """Raise ValueError for a quantized model, or one that the tokenizer does not belong to."""
    model.check_vocabulary(tokenizer.vocab_size)
    if hasattr(model, "quantization"):
        raise ValueError(
            "A quantized model cannot be fine-tuned: fine-tune the one it was made from, and "
            "quantize the result."
        )


def _train_config(config: FineTuneConfig, steps: int) -> TrainConfig:
    """The settings of the parts shared with training; all others are training's defaults."""
    return TrainConfig(
        steps=steps,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        device=config.device,
        seed=config.seed,
    )


def _choose_weights(
    model: Transformer, config: FineTuneConfig, train_config: TrainConfig
) -> tuple[nn.Module | None, Optimizers]:
    """Optimizers of LoRA's matrices, with peft's model around this one; or of all its weights."""
    if config.lora_rank:
        return add_lora(model, config)
    return None, make_optimizers(model, train_config)


def _merge(model: Transformer, adapter: nn.Module | None) -> Transformer:
    """The model on the CPU, with LoRA's matrices added to those that they stand beside."""
    if adapter:
        model = copy.deepcopy(adapter).merge_and_unload()
    return model.to("cpu").eval()


@contextmanager
def _save_before_errors(
    folder: Path | None,
    tokenizer: Tokenizer,
    adapter: nn.Module | None,
    early_stopping: EarlyStopping,
) -> Iterator[None]:
    """Where an exception ends training, as of the callback, save the best epoch and pass it on."""
    try:
        yield
    except BaseException:  # a second Ctrl-C, too
        if folder is not None and early_stopping.best_epoch > 0:
            early_stopping.restore_best()
            model = _merge(early_stopping.model, adapter)
            if try_to_save(folder, model, tokenizer, adapter):
                say(f"An error ended training: {early_stopping.best} is saved in {folder}.")
        raise


def _save_end(
    folder: Path | None,
    model: Transformer,
    tokenizer: Tokenizer,
    adapter: nn.Module | None,
    epochs: int,
) -> bool:
    """Save the model if a folder is named and an epoch is complete; whether that was done."""
    if folder is None:
        return False
    if epochs == 0:
        say(f"No epoch is complete: nothing was saved in {folder}.")
        return False
    if try_to_save(folder, model, tokenizer, adapter):
        return True
    say(
        "The model is in what finetune returned: slm.save_model(another_folder, tuned.model, "
        "tuned.tokenizer) saves it."
    )
    return False


def _train_epochs(
    model: Transformer,
    batches: ReplayBatches,
    optimizers: Optimizers,
    config: TrainConfig,
    evaluate_epoch: EvaluateEpoch,
    stop: StopRequest,
    callback: Callback | None,
) -> None:
    """Train until all steps are done or the held-out score no longer gets better.

    The model is left with the weights that did best.
    """
    keep_freed_memory()
    device = model.device.type
    rows = rows_at_once(device, config, model.config)
    step_config = replace(config, batch_size=rows, grad_accumulation=config.batch_size // rows)
    state = TrainingState(model, optimizers, batches, make_scaler(config, device), History())
    budget = Budget.of(config, model.config.context_length)
    early_stopping = evaluate_epoch.early_stopping

    def report(state: TrainingState) -> None:
        bar.show(state.progress, early_stopping.latest_score)
        if callback and callback(state.progress, early_stopping.scores):
            stop.requested = True

    torch.manual_seed(config.seed)  # dropout draws from the global state
    with ProgressBar() as bar, AdaptiveThreads() as adapt_threads:
        try:
            training_loop(
                state,
                model,
                micro_batches(batches, rows),
                step_config,
                budget,
                ProcessGroup(),
                stop,
                [adapt_threads, report, evaluate_epoch],
            )
        except DivergedError as error:
            if early_stopping.best_epoch == 0:
                raise
            bar.write(f"{error} {early_stopping.best.capitalize()} is kept.")
        else:
            _report_early_end(early_stopping, stop, state, bar)
    early_stopping.restore_best()


def _report_early_end(
    early_stopping: EarlyStopping, stop: StopRequest, state: TrainingState, bar: ProgressBar
) -> None:
    """Say why training ended before its last step, if it did."""
    best = early_stopping.best
    if early_stopping.should_stop:
        bar.write(f"Early stopping: {best} did best on the held-out stories.")
    elif stop.requested:
        bar.write(f"Stopped after step {len(state.history.steps):,}: {best} is kept.")


def _evaluate_all(
    model: Transformer, tokenizer: Tokenizer, stories_by_name: dict[str, list[str]]
) -> dict[str, Evaluation]:
    """The score on each of several sets of stories, by their names."""
    return {name: evaluate(model, tokenizer, stories) for name, stories in stories_by_name.items()}
