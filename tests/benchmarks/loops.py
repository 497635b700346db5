"""How many stories go round in circles, "Mr. Mr. Mr. ...", and what helps without hurting?

Run: python tests/benchmarks/loops.py --model FOLDER [--better-model FOLDER] [--only NAME ...]

Each sampling setting writes the same number of stories, which are counted (the columns are
explained under the table). The penalties that are not in the package are plain functions here: they
take logits `(B, V)` and all ids of each of the B rows, and return logits `(B, V)`. They change them
before the temperature does, as in transformers and llama.cpp.

Harm is measured on real stories, too, which repeat themselves where they should: "the cost" is by
how many bits per byte a penalty makes the model predict them worse.
"""

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import machine, table
from torch import Tensor

import slm
from slm.evaluation import summarize
from slm.generation import SamplingConfig
from slm.generation.decoder import IncrementalDecoder
from slm.generation.sampling import apply_repetition_penalty, choose_ids, new_generator
from slm.generation.text_generation import before_end
from slm.model.transformer import Transformer, evaluating
from slm.tokenizer.byte_pair import Tokenizer

Penalty = Callable[[Tensor, Sequence[Sequence[int]]], Tensor]

# --- Penalties -----------------------------------------------------------------------------------


def repetition_penalty(penalty: float, window: int | None = None) -> Penalty:
    """The package's own penalty, on the last `window` tokens of a row (None: all but the first)."""

    def apply(logits: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
        recent = [row[1:] if window is None else row[1:][-window:] for row in rows]
        return apply_repetition_penalty(logits, recent, penalty)

    return apply


def no_repeat_ngram(n: int) -> Penalty:
    """Rule out every token that would complete a run of `n` tokens that a row holds already.

    (Paulus et al. 2017, arXiv:1705.04304)
    """

    def apply(logits: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
        logits = logits.clone()
        for number, row in enumerate(rows):
            beginning = row[len(row) - n + 1 :]
            starts = range(len(row) - n + 1)
            banned = [row[i + n - 1] for i in starts if row[i : i + n - 1] == beginning]
            logits[number, banned] = -math.inf
        return logits

    return apply


def dry(
    allowed_length: int,
    breakers: frozenset[int] = frozenset(),
    window: int | None = None,
    multiplier: float = 0.8,
    base: float = 1.75,
) -> Penalty:
    """DRY, "don't repeat yourself": the longer the run of tokens that a token would make come
    again, the more is taken off its logit.

    Where the last L tokens have stood in the row before, the token that followed them there loses
    `multiplier * base ** (L - allowed_length)`, for an L of at least `allowed_length`. A run does
    not go back beyond one of the `breakers`, or beyond the last `window` tokens. (P. E. Weidmann
    2024, https://github.com/oobabooga/text-generation-webui/pull/5677; also in llama.cpp.)
    """

    def apply(logits: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
        logits = logits.clone()
        for number, row in enumerate(rows):
            recent = row if window is None else row[-window:]
            for token, length in longest_repeats(recent, breakers).items():
                if length >= allowed_length:
                    logits[number, token] -= multiplier * base ** (length - allowed_length)
        return logits

    return apply


def longest_repeats(row: Sequence[int], breakers: frozenset[int]) -> dict[int, int]:
    """For each token that has followed the row's last one: how many of the row's last tokens
    stood before it there, at most 50."""
    last = len(row) - 1
    lengths: dict[int, int] = {}
    if row[last] in breakers:
        return lengths
    for place in range(last):
        if row[place] != row[last]:
            continue
        length = 1
        while (
            length < min(place + 1, 50)
            and row[place - length] == row[last - length]
            and row[place - length] not in breakers
        ):
            length += 1
        follower = row[place + 1]
        lengths[follower] = max(length, lengths.get(follower, 0))
    return lengths


def breaker_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens with one of DRY's usual sequence breakers: newline, colon, quote, asterisk."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    return frozenset(id for id, piece in enumerate(pieces) if set(piece) & set('\n:"*'))


@dataclass(frozen=True)
class Setting:
    """One way to draw tokens."""

    sampling: SamplingConfig
    penalty: Penalty | None = None


def settings(tokenizer: Tokenizer) -> dict[str, Setting]:
    """All that are compared, by name."""
    default = SamplingConfig()
    greedy = SamplingConfig(temperature=0)
    all_settings = {"the defaults": Setting(default)}
    for temperature in (0.6, 0.8, 1.0):
        for min_p in (0.0, 0.05, 0.1):
            sampling = SamplingConfig(temperature=temperature, min_p=min_p)
            if sampling != default:
                all_settings[f"temperature {temperature}, min-p {min_p}"] = Setting(sampling)
    breakers = breaker_ids(tokenizer)
    penalties = {
        "repetition penalty 1.05": repetition_penalty(1.05),
        "repetition penalty 1.1": repetition_penalty(1.1),
        "repetition penalty 1.2": repetition_penalty(1.2),
        "repetition penalty 1.1, last 64": repetition_penalty(1.1, 64),
        "repetition penalty 1.1, last 16": repetition_penalty(1.1, 16),
        "repetition penalty 1.2, last 16": repetition_penalty(1.2, 16),
        "no repeated 3-gram": no_repeat_ngram(3),
        "no repeated 4-gram": no_repeat_ngram(4),
        "no repeated 5-gram": no_repeat_ngram(5),
        "no repeated 6-gram": no_repeat_ngram(6),
        "no repeated 8-gram": no_repeat_ngram(8),
        "no repeated 10-gram": no_repeat_ngram(10),
        "no repeated 12-gram": no_repeat_ngram(12),
        "DRY 2, breakers": dry(2, breakers),
        "DRY 3, breakers": dry(3, breakers),
        "DRY 4, breakers": dry(4, breakers),
        "DRY 2, last 64": dry(2, window=64),
        "DRY 3, last 64": dry(3, window=64),
        "DRY 4, last 64": dry(4, window=64),
        "DRY 2, last 32": dry(2, window=32),
        "DRY 2": dry(2),
        "DRY 3": dry(3),
        "DRY 4": dry(4),
        "DRY 6": dry(6),
        "DRY 8": dry(8),
        "DRY 10": dry(10),
    }
    for name, penalty in penalties.items():
        all_settings[name] = Setting(default, penalty)
    all_settings["greedy"] = Setting(greedy)
    for name, penalty in penalties.items():
        all_settings[f"0.6, {name}"] = Setting(SamplingConfig(temperature=0.6), penalty)
    for name, penalty in penalties.items():
        all_settings[f"greedy, {name}"] = Setting(greedy, penalty)
    return all_settings


# --- Writing -------------------------------------------------------------------------------------


def write_stories(
    decoder: IncrementalDecoder,
    prompts: Sequence[Sequence[int]],
    setting: Setting,
    end_ids: Sequence[int],
    seed: int,
) -> list[list[int]]:
    """The new ids of one story for each prompt, all drawn by one generator."""
    generator = new_generator(seed)
    rows = [list(prompt) for prompt in prompts]
    writing = list(rows)  # those that have not ended, in the order of the cache's rows
    cache = decoder.new_cache(len(rows))
    logits = decoder.prefill(writing, cache)
    for _ in range(setting.sampling.max_new_tokens):
        logits = logits.float()
        if setting.penalty is not None:
            logits = setting.penalty(logits, writing)
        for row, new_id in zip(writing, choose_ids(logits, setting.sampling, [generator])):
            row.append(new_id)
        for number in reversed(range(len(writing))):
            if writing[number][-1] in end_ids:
                cache.remove_row(number)  # the last one moves to its place
                writing[number] = writing[-1]
                writing.pop()
        if not writing:
            break
        logits = decoder.step(writing, cache)
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


@dataclass(frozen=True)
class Written:
    """The stories that a setting has written."""

    stories: list[str]
    ended: int  # by themselves


def write_all(
    model: Transformer,
    tokenizer: Tokenizer,
    setting: Setting,
    n: int,
    seed: int,
    openings: Sequence[str],
) -> Written:
    """`n` stories, 200 at a time: without a prompt, or, where nothing is drawn and they would all
    be the same, from `n` openings."""
    greedy = setting.sampling.temperature == 0
    texts = openings[:n] if greedy else [""] * n
    decoder = IncrementalDecoder(model)
    stories = []
    ended = 0
    for start in range(0, n, 200):
        batch = texts[start : start + 200]
        prompts = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in batch]
        drawn = write_stories(decoder, prompts, setting, tokenizer.end_ids, seed + start)
        for text, ids in zip(batch, drawn, strict=True):
            stories.append(text + tokenizer.decode(before_end(ids, tokenizer.eot_id)))
            ended += tokenizer.eot_id in ids
    return Written(stories, ended)


# --- Counting ------------------------------------------------------------------------------------

LONGEST_CYCLE = 60  # words
SENTENCE = 4  # words, from which on a sentence that comes again counts


def has_cycle(words: Sequence[str], length: int, times: int) -> bool:
    """Whether some `length` words come `times` times in a row: then so many words in a row are each
    the same as the one `length` places before."""
    needed = length * (times - 1)
    same = 0
    for before, word in zip(words, words[length:]):
        same = same + 1 if word == before else 0
        if same >= needed:
            return True
    return False


def is_loop(story: str) -> bool:
    """Whether a story is caught in a loop: the same four or more words three times in a row, or
    fewer ones four times."""
    words = story.split()
    return any(
        has_cycle(words, length, 4 if length < 4 else 3) for length in range(1, LONGEST_CYCLE + 1)
    )


def repeats_a_sentence(story: str) -> bool:
    """Whether a sentence of at least SENTENCE words comes three times."""
    sentences = [" ".join(part.split()) for part in re.split(r"(?<=[.!?])[\"”]?\s", story)]
    counts = Counter(part for part in sentences if len(part.split()) >= SENTENCE)
    return max(counts.values(), default=0) >= 3


# A name: a capitalised word that begins neither a sentence nor what somebody says.
NAME = re.compile(r"(?<=[a-z,] )(?!I\b)[A-Z][a-z]+\b")
NOT_NAMES = {"Mom", "Mommy", "Mama", "Mummy", "Dad", "Daddy", "Grandma", "Grandpa", "Mr", "Mrs"}


def hero_stays(story: str) -> bool | None:
    """Whether the name that comes most often in the first half stands in the last third too; None
    where there is no name."""
    half = story[: len(story) // 2]
    names = Counter(name for name in NAME.findall(half) if name not in NOT_NAMES)
    if not names:
        return None
    hero = names.most_common(1)[0][0]
    return re.search(rf"\b{hero}\b", story[2 * len(story) // 3 :]) is not None


def heroes_that_stay(stories: Sequence[str]) -> float:
    """The share of the stories with a hero in which the hero is named late, too."""
    answers = [hero_stays(story) for story in stories]
    return float(np.mean([answer for answer in answers if answer is not None]))


def words_of(text: str) -> list[str]:
    """The words of a text, without signs and capitals."""
    return re.findall(r"[a-z']+", text.lower())


def unknown_words(stories: Sequence[str], known: set[str]) -> float:
    """Of 1,000 words, how many no training story has."""
    words = [word for story in stories for word in words_of(story)]
    return 1000 * sum(word not in known for word in words) / len(words)


def bits_per_byte(model: Transformer, tokenizer: Tokenizer, stories: Sequence[str]) -> float:
    """Of some stories, by a better model: what it finds likelier takes fewer bits."""
    return slm.evaluate(model, tokenizer, stories).bits_per_byte


def cost(
    model: Transformer, tokenizer: Tokenizer, stories: Sequence[str], penalty: Penalty | None
) -> tuple[float, int]:
    """What a penalty costs on real stories: the bits per byte with it, of the stories that it
    leaves possible, less those without it; and how many it makes impossible."""
    plain = []
    changed = []
    possible = []
    with evaluating(model):
        for story in stories:
            ids = [tokenizer.bos_id, *tokenizer.encode(story), tokenizer.eot_id]
            ids = ids[: model.config.context_length + 1]
            rows = [ids[: end + 1] for end in range(len(ids) - 1)]
            targets = torch.tensor(ids[1:])
            logits = model(torch.tensor([ids[:-1]]))[0].float()
            nats = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            nats_then = nats
            if penalty is not None:
                logits = penalty(logits, rows)
                nats_then = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            if nats_then.isfinite().all():
                plain.append(nats)
                changed.append(nats_then)
                possible.append(story)
    impossible = len(stories) - len(possible)
    if not possible:
        return math.nan, impossible
    before = summarize(plain, possible).bits_per_byte
    return summarize(changed, possible).bits_per_byte - before, impossible


# --- The table -----------------------------------------------------------------------------------

HEADER = (
    "sampling",
    "loops",
    "sentence 3 times",
    "ended",
    "distinct-4",
    "repeated",
    "hero stays",
    "unknown words",
    "copied",
    "better model",
    "cost",
    "impossible",
)
EXPLANATION = """
loops: stories in which four or more words come three times in a row, or fewer words four times.
sentence 3 times: stories in which a sentence of at least four words comes three times.
ended: stories that end by themselves. distinct-4: of all runs of four words, different ones.
repeated: of a story's runs of four words, those that it had before.
hero stays: of the stories with a name in the first half, those with the same in the last third.
unknown words: of 1,000 words, those that no training story has.
copied: words of the longest run that stands in the training stories: median, 95 of 100.
better model: bits per byte of the stories by the model --better-model.
cost: bits per byte that the penalty adds on real stories; impossible: of these, those ruled out.
"""


def count(
    written: Written, known: set[str], copies: Sequence[int], better: tuple | None
) -> list[str]:
    """One line of the table, but for its name and the cost."""
    stories = written.stories
    quality = f"{bits_per_byte(*better, stories):.3f}" if better else ""
    return [
        str(sum(map(is_loop, stories))),
        str(sum(map(repeats_a_sentence, stories))),
        f"{written.ended / len(stories):.1%}",
        f"{slm.distinct(stories, 4):.3f}",
        f"{slm.repetition(stories):.1%}",
        f"{heroes_that_stay(stories):.1%}",
        f"{unknown_words(stories, known):.2f}",
        f"{np.median(copies):.0f}, {np.percentile(copies, 95):.0f}",
        quality,
    ]


def main() -> None:
    """Generate, count, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="stories", help="a folder (default: the bundled model)")
    parser.add_argument("--stories", type=int, default=200, help="for each setting (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of settings (default: all)")
    parser.add_argument("--better-model", help="a folder, whose model judges the stories")
    parser.add_argument("--cost-stories", type=int, default=200, help="real ones for the cost")
    parser.add_argument("--save", help="a .json file for all stories")
    options = parser.parse_args()
    model, tokenizer = slm.load_model(options.model)
    better = slm.load_model(options.better_model) if options.better_model else None
    real = slm.load_stories()
    openings = [" ".join(story.split()[:8]) for story in real.validation]
    known = {word for story in real.train for word in words_of(story)}

    results = {"real stories": Written(real.validation[: options.stories], options.stories)}
    costs = {}
    candidates = settings(tokenizer)
    cost_stories = real.validation[: options.cost_stories]
    for name in options.only or candidates:
        setting = candidates[name]
        results[name] = write_all(
            model, tokenizer, setting, options.stories, options.seed, openings
        )
        if setting.penalty is not None and setting.sampling.temperature > 0:
            costs[name] = cost(model, tokenizer, cost_stories, setting.penalty)
        loops = [story for story in results[name].stories if is_loop(story)]
        print(f"{name}: {len(loops)} loops", *(repr(story[-120:]) for story in loops[:2]), sep="\n")
        print(flush=True)
    if options.save:
        saved = {name: (written.stories, written.ended) for name, written in results.items()}
        Path(options.save).write_text(json.dumps(saved), encoding="utf-8")

    # All at once, since the training text has to be sorted for it: that takes the time.
    everything = [story for written in results.values() for story in written.stories]
    copies = [copy.words for copy in slm.longest_copies(everything, real.train)]
    rows = []
    for start, (name, written) in enumerate(results.items()):
        lengths = copies[start * options.stories : (start + 1) * options.stories]
        bits, impossible = costs.get(name, (None, ""))
        counted = count(written, known, lengths, better)
        rows.append((name, *counted, "" if bits is None else f"{bits:+.4f}", impossible))
    print(machine())
    print(f"{options.stories} stories for each, seed {options.seed}, model {options.model}:\n")
    print(table(HEADER, rows))
    print(EXPLANATION)


if __name__ == "__main__":
    main()
