"""Evaluation: bits per byte, a score that compares models with different tokenizers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slm.hardware.memory import explain_out_of_memory
from slm.model.transformer import Transformer, evaluating
from slm.stories.cleaning import Stories
from slm.stories.files import as_texts
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.memory import USABLE, available_memory
from slm.utils.settings_checks import LARGEST, check_number

BYTES_PER_LOGIT = 12  # float32: the logits, their order changed, and their logarithms


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts some stories."""

    nats_per_token: float  # mean cross-entropy: what training lowers
    bits_per_byte: float  # the same per byte of text, so that tokenizers compare
    tokens: int  # how many were predicted
    bytes: int  # the stories' UTF-8 bytes, and one for each one's end
    nats_by_position: tuple[float, ...] = field(repr=False)  # of a story's 1st token, 2nd, ...
    stories_by_position: tuple[int, ...] = field(repr=False)  # how many stories go so far

    @property
    def perplexity(self) -> float:
        """Among how many equally likely tokens the model chooses, in effect."""
        return math.exp(self.nats_per_token)


def evaluate(
    model: Transformer,
    tokenizer: Tokenizer,
    stories: Sequence[str] | Stories,
    *,
    batch_size: int = 16,
) -> Evaluation:
    """Measure, in float32, how well a model predicts stories that it has not seen.

    Of what `slm.load_stories` gives, these are the validation stories. `batch_size` windows, or as
    many of them as memory has room for, are read at once. Raises ValueError without a story, for
    what is no text, and where model and tokenizer do not belong together.
    """
    if isinstance(stories, Stories):
        stories = stories.validation
    if not isinstance(stories, str):  # one text is no list: `token_nats` refuses it
        stories = as_texts(stories)
    return summarize(token_nats(model, tokenizer, stories, batch_size=batch_size), stories)


@dataclass(frozen=True)
class _Window:
    """A part of a story, no longer than the context: each id but the first is predicted."""

    story: int  # the story's place among all
    ids: Tensor  # (tokens + 1,)


def token_nats(
    model: Transformer, tokenizer: Tokenizer, stories: Sequence[str], *, batch_size: int = 16
) -> list[Tensor]:
    """For each story the cross-entropies, in nats, of its tokens and of its end, `(tokens + 1,)`.

    Every story is read by itself as `<eot> story <eot>`; one that is longer than the context is
    divided into consecutive windows. Raises ValueError as `evaluate` does.
    """
    if not stories or isinstance(stories, str):
        raise ValueError("There are no stories to evaluate on: give a list of at least one.")
    model.check_vocabulary(tokenizer.vocab_size)
    batch_size = check_number("batch_size", batch_size, whole=True, low=1)
    windows = _split_into_windows(tokenizer, stories, model.config.context_length)
    # Windows of about equal length stand together, so that little is computed for padding.
    by_length = sorted(range(len(windows)), key=lambda number: len(windows[number].ids))
    longest = len(windows[by_length[-1]].ids) - 1
    batch_size = min(batch_size, _windows_that_fit(model, longest))
    nats_of_window: dict[int, Tensor] = {}
    with evaluating(model), explain_out_of_memory("take a model with a shorter context"):
        for start in range(0, len(windows), batch_size):
            numbers = by_length[start : start + batch_size]
            nats = _nats_of_each_id([windows[number].ids for number in numbers], model)
            nats_of_window.update(zip(numbers, nats, strict=True))
    nats_of_story: list[list[Tensor]] = [[] for _ in stories]
    for number, window in enumerate(windows):
        nats_of_story[window.story].append(nats_of_window[number])
    return [torch.cat(nats) for nats in nats_of_story]


def _windows_that_fit(model: Transformer, tokens: int) -> int:
    """How many windows of so many tokens memory has room for, one at least."""
    available = available_memory(model.device.type)
    if available is None:
        return LARGEST
    logits = tokens * model.config.vocab_size * BYTES_PER_LOGIT
    return max(int(USABLE * available // logits), 1)


def _split_into_windows(
    tokenizer: Tokenizer, stories: Sequence[str], context_length: int
) -> list[_Window]:
    windows = []
    for number, story in enumerate(stories):
        ids = torch.tensor([tokenizer.bos_id, *tokenizer.encode(story), tokenizer.eot_id])
        # A window's last id is the next one's first, so that every id after the story's first is
        # predicted exactly once.
        for start in range(0, len(ids) - 1, context_length):
            windows.append(_Window(number, ids[start : start + context_length + 1]))
    return windows


def _nats_of_each_id(windows: Sequence[Tensor], model: Transformer) -> list[Tensor]:
    """The cross-entropy of each id after the first, given those before it, for each window."""
    device = model.device
    inputs = nn.utils.rnn.pad_sequence([ids[:-1] for ids in windows], batch_first=True)  # (B, T)
    targets = nn.utils.rnn.pad_sequence([ids[1:] for ids in windows], batch_first=True)  # (B, T)
    logits = model(inputs.to(device))  # (B, T, V)
    nats = F.cross_entropy(logits.mT, targets.to(device), reduction="none").cpu()  # (B, T)
    return [row[: len(ids) - 1] for row, ids in zip(nats, windows, strict=True)]


def summarize(nats: Sequence[Tensor], stories: Sequence[str]) -> Evaluation:
    """Add up the cross-entropies of the stories' tokens.

    Bits per byte say how many bits each byte of a story takes, on average, when the model is used
    to compress it:  (sum of all nats / ln 2) / (UTF-8 bytes of all stories + one for each end).
    """
    total_nats = sum(story.double().sum().item() for story in nats)
    tokens = sum(len(story) for story in nats)
    text_bytes = len("".join(stories).encode("utf-8", "replace"))
    total_bytes = text_bytes + len(stories)
    by_position = nn.utils.rnn.pad_sequence(nats, batch_first=True, padding_value=math.nan)
    return Evaluation(
        nats_per_token=total_nats / tokens,
        bits_per_byte=total_nats / math.log(2) / total_bytes,
        tokens=tokens,
        bytes=total_bytes,
        nats_by_position=tuple(by_position.nanmean(0).tolist()),
        stories_by_position=tuple((~by_position.isnan()).sum(0).tolist()),
    )
