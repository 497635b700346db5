"""What a story report shows, measured: how good a model is, how original, and what it writes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from slm.analysis.ngram import NGram
from slm.analysis.openings import OPENINGS
from slm.analysis.originality import Copy, distinct, longest_copies, repetition
from slm.evaluation import Evaluation, summarize, token_nats
from slm.generation.decoder import IncrementalDecoder
from slm.generation.text_generation import before_end, generate, generate_ids
from slm.model.size import parameter_count
from slm.model.transformer import Transformer
from slm.settings import ModelConfig, SamplingConfig
from slm.stories.cleaning import Stories
from slm.tokenizer.byte_pair import Tokenizer

TEMPERATURE = SamplingConfig.temperature
MAX_NEW_TOKENS = SamplingConfig.max_new_tokens


@dataclass(frozen=True)
class Originality:
    """How much a set of stories repeats itself and copies the training stories."""

    stories: int
    distinct: float  # share of all runs of 3 words that are different ones
    repetition: float  # share of runs of 4 words that came before in the same story
    median_copy: float  # words
    longest_copy: int  # words
    mostly_copied: float  # share of the stories more than half of which is one copied run

    @classmethod
    def of(cls, stories: Sequence[str], copies: Sequence[Copy]) -> "Originality":
        """Measure some stories, of which the longest copied runs are known already."""
        lengths = [copy.words for copy in copies]
        return cls(
            stories=len(stories),
            distinct=distinct(stories),
            repetition=repetition(stories),
            median_copy=float(np.median(lengths)),
            longest_copy=max(lengths),
            mostly_copied=float(np.mean([copy.large for copy in copies])),
        )


@dataclass(frozen=True)
class StoryReport:
    """All that the page shows."""

    name: str
    config: ModelConfig
    parameters: int
    source: str  # where the stories come from
    held_out_stories: int
    scores: dict[str, Evaluation]  # the model's first, then those of the n-gram models
    hardest_words: list[tuple[str, float, int]]
    stopped: float  # share of the generated stories that ended by themselves
    generated: Originality
    held_out: Originality
    continuations: list[tuple[str, Copy]]  # of each of OPENINGS, opening included


def sample_stories(
    model: Transformer, tokenizer: Tokenizer, n: int, **settings
) -> tuple[list[str], float]:
    """Generate `n` stories without a prompt. `settings` are fields of `SamplingConfig`.

    Returns them, and the share of them that ended by themselves within `max_new_tokens`.
    """
    eot_id = tokenizer.eot_id
    prompts = [[tokenizer.bos_id]]
    sampling = SamplingConfig(**settings)
    steps = generate_ids(IncrementalDecoder(model), prompts, sampling, tokenizer.end_ids, n)
    rows = list(zip(*steps, strict=True))  # n rows, one column for each decode step
    stories = [tokenizer.decode(before_end(row, eot_id)) for row in rows]
    ended = sum(eot_id in row for row in rows)
    return stories, ended / n


def hardest_words(
    nats: Sequence[torch.Tensor], tokenizer: Tokenizer, stories: Sequence[str], min_count: int = 5
) -> list[tuple[str, float, int]]:
    """The words of the stories, those that the model predicts worst first.

    `nats` are the cross-entropies of the stories' tokens, from `token_nats`. Returns for each word
    its mean nats, those of its tokens added up, and how often it came. Words that came fewer than
    `min_count` times are left out.
    """
    nats_of_word = defaultdict(list)
    for token_losses, story in zip(nats, stories, strict=True):
        pieces = tokenizer.pieces(tokenizer.encode(story))
        # The last loss is that of the end of the story, which has no piece.
        for word, loss in _join_words(pieces, token_losses.tolist()[:-1]):
            nats_of_word[word].append(loss)
    words = []
    for word, losses in nats_of_word.items():
        if word[0].isalpha() and len(losses) >= min_count:
            words.append((word, float(np.mean(losses)), len(losses)))
    return sorted(words, key=lambda word: word[1], reverse=True)


def _join_words(pieces: Sequence[str], losses: Sequence[float]) -> list[tuple[str, float]]:
    """Tokens as words: a token that begins with a letter goes on where the one before ended with
    one. A word's loss is the sum of its tokens'.
    """
    words = []
    for piece, loss in zip(pieces, losses, strict=True):
        if words and piece[0].isalpha() and words[-1][0][-1].isalpha():
            beginning, loss_so_far = words.pop()
            words.append((beginning + piece, loss_so_far + loss))
        else:
            words.append((piece, loss))
    return [(word.strip(), loss) for word, loss in words if word.strip()]


def measure(
    model: Transformer,
    tokenizer: Tokenizer,
    stories: Stories,
    name: str,
    samples: int,
    evaluation_stories: int,
    seed: int,
) -> StoryReport:
    """Score the model, let it write, and compare what it writes with what it was trained on."""
    held_out = stories.validation[:evaluation_stories]
    nats = token_nats(model, tokenizer, held_out)
    scores = {
        name: summarize(nats, held_out),
        "trigram: counting": NGram(stories.train, tokenizer, 3).evaluate(held_out),
        "bigram: counting": NGram(stories.train, tokenizer, 2).evaluate(held_out),
    }

    sampling = {"temperature": TEMPERATURE, "max_new_tokens": MAX_NEW_TOKENS, "seed": seed}
    generated, stopped = sample_stories(model, tokenizer, samples, **sampling)
    continuations = []
    for opening in OPENINGS:
        continuations.append(generate(model, tokenizer, opening.text, **sampling))

    # All at once, since the training text has to be sorted for it: that takes the time.
    compared = stories.validation[:samples]
    copies = longest_copies([*generated, *compared, *continuations], stories.train)
    generated_end = len(generated)
    compared_end = generated_end + len(compared)

    return StoryReport(
        name=name,
        config=model.config,
        parameters=parameter_count(model.config),
        source=stories.source,
        held_out_stories=len(held_out),
        scores=scores,
        hardest_words=hardest_words(nats, tokenizer, held_out),
        stopped=stopped,
        generated=Originality.of(generated, copies[:generated_end]),
        held_out=Originality.of(compared, copies[generated_end:compared_end]),
        continuations=list(zip(continuations, copies[compared_end:], strict=True)),
    )
