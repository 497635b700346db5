"""Fine-tuning: a trained model goes on learning, from your own stories."""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from slm.batches import Batches, pack
from slm.checkpoint.saving import save_model
from slm.evaluation import evaluate
from slm.finetuning.lora import add_lora
from slm.finetuning.own_stories import own_stories
from slm.finetuning.result import FineTuned
from slm.generation.text_generation import generate
from slm.hardware.device import pick_device
from slm.hardware.memory import keep_freed_memory
from slm.model.transformer import Transformer
from slm.settings import FineTuneConfig, TrainConfig
from slm.stories.cleaning import Stories
from slm.stories.loading import load_stories
from slm.tokenizer.byte_pair import Tokenizer
from slm.training.optimizer import Optimizers, make_optimizers
from slm.training.progress import BAR, finishing_the_step
from slm.training.schedule import learning_rate_factor
from slm.training.step import train_step

PROMPTS = ("Once upon a time", "One day", "It was night and")


def finetune(
    model: Transformer,
    tokenizer: Tokenizer,
    stories: str | Path | Sequence[str],
    *,
    ordinary: Stories | None = None,
    folder: str | Path | None = None,
    callback: Callable[[float, list[float]], None] | None = None,
    **settings,
) -> FineTuned:
    """Teach a model your own stories: a file or a folder of them, or a list of texts, of any
    length; or "lighthouse", the tales that come with the package. The model that is given stays as
    it is; the one that comes back is saved in `folder`, where one is named.

    Some of your stories are held out: after each epoch they are scored, and the best epoch's
    weights are kept. Against forgetting, a share of each batch comes from `ordinary` stories
    (default: `slm.load_stories(n=2000)`). `callback` is given, after every step, the share of the
    steps that is done and the scores of the epochs so far, in nats per token. `settings` are fields
    of `FineTuneConfig`. With `lora_rank` all weights stay as they are, and small matrices beside
    them learn (LoRA, Hu et al. 2021, arXiv:2106.09685), by the library peft; `folder / "adapter"`
    then has what peft loads.
    Raises ValueError for settings that make no sense and for too few stories."""
    config = FineTuneConfig(**settings)
    model.check_tokenizer(tokenizer)
    most = model.config.context_length - 1  # and the end of text
    mine, held = own_stories(stories, tokenizer, most, config.held_out, config.seed)
    ordinary = ordinary or load_stories(n=2_000)
    device, tuned = pick_device(config.device), copy.deepcopy(model)
    tuned.to(device).requires_grad_(True)
    measured = {"yours": held, "ordinary": ordinary.validation[:100]}
    before = {name: evaluate(tuned, tokenizer, texts) for name, texts in measured.items()}
    rate = dict(learning_rate=config.learning_rate, batch_size=config.batch_size, device=device)
    training = TrainConfig(steps=1, **rate)
    adapter, optimizers = None, make_optimizers(tuned, training)
    if config.lora_rank:
        adapter, optimizers = add_lora(tuned, config)
    data = mine, held, ordinary.train
    epochs = _learn(tuned, tokenizer, data, optimizers, config, training, callback)
    if adapter:
        if folder:
            adapter.save_pretrained(str(Path(folder) / "adapter"))
        tuned = adapter.merge_and_unload()
    tuned.to("cpu").eval()
    if folder:
        save_model(folder, tuned, tokenizer)
    after = {name: evaluate(tuned, tokenizer, texts) for name, texts in measured.items()}
    how = dict(max_new_tokens=80, seed=config.seed)
    pair = lambda text: tuple(generate(x, tokenizer, text, **how) for x in (model, tuned))  # noqa: E731
    samples = [pair(text) for text in PROMPTS]
    return FineTuned(tuned, tokenizer, before, after, samples, epochs, folder and Path(folder))


def _learn(
    model: Transformer,
    tokenizer: Tokenizer,
    data: tuple[list[str], list[str], list[str]],
    optimizers: Optimizers,
    config: FineTuneConfig,
    training: TrainConfig,
    callback: Callable[[float, list[float]], None] | None,
) -> list[float]:
    """Train until the epochs are over or the score on those held out no longer gets better, and
    leave the model with the weights that did best. `data` are yours, those held out, and ordinary
    ones. Gives the score after each epoch, in nats per token."""
    mine, held, others = data
    few = min(round(config.batch_size * config.replay), config.batch_size - 1)
    length, packed = model.config.context_length, pack(mine, tokenizer)
    row = dict(context_length=length, seed=config.seed)
    sources = [Batches(packed, batch_size=config.batch_size - few, **row)]
    if few:
        sources.append(Batches(pack(others, tokenizer), batch_size=few, **row))
    batches = _side_by_side(sources)
    per_epoch = -(-len(packed) // ((config.batch_size - few) * length))  # steps
    steps = config.epochs * per_epoch
    best, epochs = copy.deepcopy(model.state_dict()), []
    lowest = evaluate(model, tokenizer, held).nats_per_token
    keep_freed_memory()
    torch.manual_seed(config.seed)  # dropout draws from the global state
    model.train()
    look = {"total": steps, "bar_format": BAR, "mininterval": 1.0, "file": sys.stdout}
    with finishing_the_step() as stop_asked, tqdm(**look) as bar:
        while not stop_asked and bar.n < steps:
            rate = config.learning_rate * learning_rate_factor((bar.n + 0.5) / steps, training)
            train_step(model, batches, optimizers, training, rate)
            bar.update()
            if callback:
                callback(bar.n / steps, epochs)
            if bar.n % per_epoch:
                continue
            epochs.append(evaluate(model, tokenizer, held).nats_per_token)
            bar.set_postfix_str(f"epoch {len(epochs)}: {epochs[-1]:.2f} nats per token held out")
            if epochs[-1] < lowest:
                best, lowest = copy.deepcopy(model.state_dict()), epochs[-1]
            elif min(epochs[-config.patience :]) > lowest and len(epochs) >= config.patience:
                which = f"epoch {epochs.index(lowest) + 1}" if lowest in epochs else "what it was"
                bar.write(f"Enough: {which} did best on the stories held out.", file=sys.stdout)
                break
    model.load_state_dict(best)
    return epochs


def _side_by_side(sources: list[Batches]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches with the rows of several sources: inputs and targets, `(B, T)` each."""
    for parts in zip(*sources, strict=True):
        yield tuple(torch.cat(side) for side in zip(*parts, strict=True))
