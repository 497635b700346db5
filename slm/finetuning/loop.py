"""Fine-tuning: a trained model goes on learning, from your own stories."""

import copy
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from slm.checkpoint.replacing import check_replaceable
from slm.checkpoint.saving import save_model_as
from slm.evaluation import Evaluation, evaluate
from slm.finetuning.early_stopping import EarlyStopping
from slm.finetuning.lora import add_lora
from slm.finetuning.own_stories import own_stories
from slm.finetuning.replay import ReplayBatches, micro_batches
from slm.finetuning.result import FineTuned
from slm.generation.text_generation import generate
from slm.hardware.device import pick_device
from slm.hardware.memory import explain_out_of_memory, keep_freed_memory, rows_at_once
from slm.hardware.threads import AdaptiveThreads
from slm.model.transformer import Transformer
from slm.settings import FineTuneConfig, TrainConfig
from slm.stories.cleaning import Stories
from slm.stories.loading import load_stories
from slm.stories.opening import commonest_opening
from slm.tokenizer.byte_pair import Tokenizer
from slm.training.optimizer import Optimizers, make_optimizers
from slm.training.progress import ProgressBar, StopRequest, stop_after_step
from slm.training.schedule import learning_rate_factor
from slm.training.step import DivergedError, make_scaler, train_step
from slm.utils.files import expand_home
from slm.utils.folder_marker import (
    FINE_TUNED,
    check_kind,
    claim_folder,
    lock_folder,
    remove_if_empty,
)
from slm.utils.printing import say
from slm.utils.settings_checks import split_settings
from slm.utils.write_errors import explain_write_errors

PROMPTS = ("Once upon a time", "One day", "It was night and")

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
    model.check_vocabulary(tokenizer.vocab_size)
    if hasattr(model, "quantization"):
        raise ValueError(
            "A quantized model cannot be fine-tuned: fine-tune the one it was made from, and "
            "quantize the result."
        )
    context_length = model.config.context_length
    max_tokens = context_length - 1  # the last one is the end of text
    own, held_out = own_stories(stories, tokenizer, max_tokens, config.held_out, config.seed)
    ordinary = ordinary or load_stories(n=2_000)
    batches = ReplayBatches(own, ordinary.train, tokenizer, context_length, config)

    # The folder shows what is wrong with it before hours of training; and until all is saved, a
    # signal that ends the process only stops the training.
    with _claim_and_lock(folder, model, tokenizer), stop_after_step() as stop:
        tuned = copy.deepcopy(model)
        tuned.to(pick_device(config.device)).requires_grad_(True)
        measured = {"yours": held_out, "ordinary": ordinary.validation[:100]}
        before = _evaluate_all(tuned, tokenizer, measured)
        train_config = _train_config(config, steps=config.epochs * batches.steps_per_epoch)
        adapter = None
        if config.lora_rank:
            adapter, optimizers = add_lora(tuned, config)
        else:
            optimizers = make_optimizers(tuned, train_config)
        early_stopping = EarlyStopping(tuned, before["yours"].nats_per_token, config.patience)
        try:
            with explain_out_of_memory("set batch_size to less"):
                _train_epochs(
                    tuned,
                    tokenizer,
                    batches,
                    held_out,
                    optimizers,
                    train_config,
                    early_stopping,
                    stop,
                    callback,
                )
        except BaseException:  # of the callback, say: the best epoch must not be lost
            if folder is not None and early_stopping.best_epoch > 0:
                early_stopping.restore_best()
                _save(folder, _merged(tuned, adapter), tokenizer, adapter)
            raise
        tuned = _merged(tuned, adapter)
        is_saved = False
        if folder is not None and early_stopping.scores:
            is_saved = _save(folder, tuned, tokenizer, adapter)
            if not is_saved:
                say(
                    "The model is in what finetune returned: slm.save_model(another_folder, "
                    "tuned.model, tuned.tokenizer) saves it."
                )
        elif folder is not None:
            say(f"No epoch is complete: nothing was saved in {folder}.")
    return FineTuned(
        model=tuned,
        tokenizer=tokenizer,
        before=before,
        after=_evaluate_all(tuned, tokenizer, measured),
        samples=_write_samples(model, tuned, tokenizer, _prompts(ordinary), config.seed),
        epochs=early_stopping.scores,
        folder=folder if is_saved else None,
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


@contextmanager
def _claim_and_lock(
    folder: Path | None, model: Transformer, tokenizer: Tokenizer
) -> Iterator[None]:
    """Make the folder, if one is named, one for fine-tuned models, and keep other processes out.

    A new folder is removed again if nothing was saved in it. Raises ValueError if the folder holds
    anything else than a fine-tuned model of the same shape and tokenizer.
    """
    if folder is None:
        yield
        return
    with explain_write_errors(folder):
        was_there = folder.exists()
        check_kind(folder, FINE_TUNED)
        will_be_replaced = check_replaceable(folder, model, tokenizer)
        claim_folder(folder, FINE_TUNED)
    try:
        with lock_folder(folder):
            if will_be_replaced:
                say(f"{folder} holds a fine-tuned model already: the new one will replace it.")
            yield
    finally:
        if not was_there:
            remove_if_empty(folder)


def _merged(model: Transformer, adapter: nn.Module | None) -> Transformer:
    """The model on the CPU, LoRA's small matrices added to those they stand beside."""
    if adapter:
        model = copy.deepcopy(adapter).merge_and_unload()
    return model.to("cpu").eval()


def _save(
    folder: Path, model: Transformer, tokenizer: Tokenizer, adapter: nn.Module | None
) -> bool:
    """Save the model and LoRA's adapter; False, and a message, where that fails."""
    try:
        save_model_as(FINE_TUNED, folder, model, tokenizer)
        shutil.rmtree(folder / "adapter", ignore_errors=True)  # of a model that was replaced
        if adapter:
            # Embeddings are not adapted: without this, peft would look for them in the base model.
            adapter.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
    except (OSError, SafetensorError) as error:
        say(f"The model could not be saved in {folder}. {error}")
        return False
    return True


def _train_epochs(
    model: Transformer,
    tokenizer: Tokenizer,
    batches: ReplayBatches,
    held_out: list[str],
    optimizers: Optimizers,
    config: TrainConfig,
    early_stopping: EarlyStopping,
    stop: StopRequest,
    callback: Callback | None,
) -> None:
    """Train until all steps are done or the held-out score no longer gets better.

    The model is left with the weights that did best.
    """
    keep_freed_memory()
    device = model.device.type
    rows = rows_at_once(device, config, model.config)
    parts = micro_batches(batches, rows)
    step_config = replace(config, batch_size=rows, grad_accumulation=config.batch_size // rows)
    scaler = make_scaler(config, device)
    torch.manual_seed(config.seed)  # dropout draws from the global state
    model.train()
    text = ""
    with ProgressBar() as bar, AdaptiveThreads() as adapt_threads:
        for step in range(1, config.steps + 1):
            factor = learning_rate_factor((step - 0.5) / config.steps, config)
            learning_rate = config.learning_rate * factor
            try:
                train_step(model, parts, optimizers, step_config, learning_rate, scaler)
            except DivergedError as error:
                if early_stopping.best_epoch == 0:
                    raise
                bar.write(f"{error} {_best_epoch(early_stopping).capitalize()} is kept.")
                break
            adapt_threads()
            bar.show(step / config.steps, text)
            if callback and callback(step / config.steps, early_stopping.scores):
                stop.requested = True
            if step % batches.steps_per_epoch == 0:
                score = evaluate(model, tokenizer, held_out).nats_per_token
                early_stopping.update(score)
                epoch = len(early_stopping.scores)
                text = f"epoch {epoch}: {score:.2f} nats per token held out"
            if early_stopping.should_stop:
                best = _best_epoch(early_stopping)
                bar.write(f"Early stopping: {best} did best on the held-out stories.")
                break
            if stop.requested:
                bar.write(f"Stopped after step {step:,}: {_best_epoch(early_stopping)} is kept.")
                break
    early_stopping.restore_best()


def _best_epoch(early_stopping: EarlyStopping) -> str:
    if early_stopping.best_epoch == 0:
        return "the model as it was"
    return f"epoch {early_stopping.best_epoch}"


def _evaluate_all(
    model: Transformer, tokenizer: Tokenizer, measured: dict[str, list[str]]
) -> dict[str, Evaluation]:
    """The score on each of several sets of stories, by their names."""
    return {name: evaluate(model, tokenizer, stories) for name, stories in measured.items()}


def _prompts(ordinary: Stories) -> tuple[str, ...]:
    """Prompts in the language of the ordinary stories, as far as that can be known."""
    opening = commonest_opening(ordinary.train)
    return PROMPTS if opening.isascii() else (opening,)


def _write_samples(
    before: Transformer,
    after: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    seed: int,
) -> list[tuple[str, str]]:
    """What both models make of the same prompts, side by side."""
    samples = []
    for prompt in prompts:
        pair = [
            generate(model, tokenizer, prompt, max_new_tokens=80, seed=seed)
            for model in (before, after)
        ]
        samples.append(tuple(pair))
    return samples
