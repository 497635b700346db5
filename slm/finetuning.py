"""Make it yours: a trained model goes on learning, from your own stories (optional)."""

import copy
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from textwrap import fill

import torch
from torch import Tensor
from tqdm import tqdm

from slm.batches import Batches, pack
from slm.checkpoint import save_model
from slm.evaluation import Evaluation, evaluate
from slm.generation import generate
from slm.machine import keep_freed_memory, pick_device
from slm.model import Transformer
from slm.optimization import (
    Optimizers,
    TrainConfig,
    learning_rate_factor,
    make_optimizers,
    train_step,
)
from slm.readers import read_stories
from slm.settings import check
from slm.stories import Stories, clean_stories, load_stories
from slm.tokenizer import Tokenizer
from slm.training import BAR, finishing_the_step

PROMPTS = ("Once upon a time", "One day", "It was night and")
_SENTENCE = re.compile(r"\S.*?(?:[.!?…]+[\"'”’»)\]]*(?=\s)|$)\s*", re.DOTALL)


@dataclass(frozen=True)
class FineTuneConfig:
    """How to fine-tune. Raises ValueError, naming the field, for values that make no sense."""

    epochs: int = 20  # how often your stories are read, at most
    patience: int = 3  # epochs without a better score on those held out, after which it stops
    learning_rate: float = 0.001  # the peak
    replay: float = 0.25  # share of each batch from ordinary stories, against forgetting
    held_out: float = 0.1  # share of your stories that it is measured by
    batch_size: int = 8  # rows of context_length tokens
    lora_rank: int | None = None  # of the two narrow matrices beside each; None: train all weights
    device: str = "auto"
    seed: int = 0  # of what is held out, the order and dropout

    def __post_init__(self):
        check(self, "epochs", "patience", "batch_size", "lora_rank", whole=True, low=1)
        check(self, "seed", whole=True, low=0)
        check(self, "learning_rate", "held_out")
        check(self, "replay", low=0, high=0.9)
        if self.held_out > 0.5:
            raise ValueError(f"held_out must be at most 0.5, not {self.held_out!r}.")


@dataclass(frozen=True)
class FineTuned:
    """The new model, and what has changed: its scores and stories before and after. Printed, they
    stand side by side."""

    model: Transformer = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    before: dict[str, Evaluation]  # by "yours", those held out, and "ordinary"
    after: dict[str, Evaluation]
    samples: list[tuple[str, str]] = field(repr=False)  # a story before, and after
    epochs: list[float]  # nats per token on those held out after each epoch
    folder: Path | None

    def __str__(self) -> str:
        rows = [f"{'bits per byte':<22}{'before':>8}{'after':>8}"]
        for name, told in (("yours", "your held-out stories"), ("ordinary", "ordinary stories")):
            bits = [scores[name].bits_per_byte for scores in (self.before, self.after)]
            rows.append(f"{told:<22}{bits[0]:8.3f}{bits[1]:8.3f}")
        for pair in self.samples:
            for when, text in zip(("before", "after"), pair, strict=True):
                rows.append(fill(f"{when}: {text}", 100, subsequent_indent="    "))
        return "\n".join(rows)


def split_long(text: str, tokenizer: Tokenizer, most: int) -> list[str]:
    """Cut a text into parts of at most `most` tokens, between sentences. Only a sentence that is
    longer than this is cut between words."""
    parts, length = [""], 0
    for sentence in _SENTENCE.findall(text):
        size = len(tokenizer.encode(sentence))
        pieces = [sentence] if size <= most else re.findall(r"\S+\s*", sentence)
        for piece in pieces:
            size = len(tokenizer.encode(piece))
            if length and length + size > most:
                parts.append("")
                length = 0
            parts[-1] += piece
            length += size
    return [part.strip() for part in parts if part.strip()]


def own_stories(
    source: str | Path | Sequence[str], tokenizer: Tokenizer, most: int, held_out: float, seed: int
) -> tuple[list[str], list[str]]:
    """Your stories, cleaned, and in parts of at most `most` tokens: those to learn from and those
    held out. ValueError where there are too few, FileNotFoundError where there is no such file."""
    texts = read_stories(source) if isinstance(source, str | Path) else list(source)
    kept, cleaning = clean_stories(texts)
    if len(kept) < 2:
        few = f"{len(kept)} of {cleaning.stories_read} are left after cleaning"
        raise ValueError(f"Too few stories to learn from ({few}): give two or more, better ten.")
    Random(seed).shuffle(kept)
    held = max(1, round(held_out * len(kept)))
    split = lambda some: [part for x in some for part in split_long(x, tokenizer, most)]  # noqa: E731
    return split(kept[held:]), split(kept[:held])


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


def add_lora(model: Transformer, config: FineTuneConfig) -> tuple[object, Optimizers]:
    """Put LoRA's matrices beside those of the blocks: peft's model around it, and an optimizer of
    them alone. ImportError, with the mend, where peft is not installed."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ImportError("LoRA needs the library peft: pip install peft") from None
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    how = dict(r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules=names)
    adapter = get_peft_model(model, LoraConfig(**how))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return adapter, [torch.optim.AdamW([{"params": weights}], weight_decay=0.0)]


def _side_by_side(sources: list[Batches]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches with the rows of several sources: inputs and targets, `(B, T)` each."""
    for parts in zip(*sources, strict=True):
        yield tuple(torch.cat(side) for side in zip(*parts, strict=True))
