"""How long are the runs of words that a model copies from what it was trained on?

Run: python tests/benchmarks/copies.py --model FOLDER [--also FILE.jsonl]

A story's longest run of words that also stands in a training story is compared with that of real
validation stories, which nobody can have copied, under the same conditions. Nearly all stories
begin with one of a few formulas, so the conditions differ in how much of the beginning counts:

- whole stories, the model's without a prompt;
- what follows the first sentence of these;
- continuations: the first four to eight words of a real validation story are given, and only what
  follows them counts, the model's words and the real ones;
- what follows the first sentence of these continuations.

`--also` is a file of further stories that the model was trained on.
"""

import argparse
import random
import re

import numpy as np
from common import machine, table
from loops import Setting, write_stories

import slm
from slm.analysis import Copy
from slm.generation import SamplingConfig
from slm.generation.decoder import IncrementalDecoder
from slm.generation.text_generation import before_end

SENTENCE_END = re.compile(r"[.!?][\"”]?\s")


def without_first_sentence(text: str) -> str:
    """What follows the first sentence; nothing where there is only one."""
    end = SENTENCE_END.search(text)
    return text[end.end() :] if end else ""


def split_opening(story: str, words: int) -> tuple[str, str]:
    """The first words of a story, and the rest."""
    opening = re.match(rf"(?:\S+\s+){{{words - 1}}}\S+", story)
    end = opening.end() if opening else 0
    return story[:end], story[end:]


def continue_all(model, tokenizer, openings: list[str], temperature: float, seed: int) -> list[str]:
    """The model's continuation of each opening, at the default settings but for the temperature."""
    prompts = [[tokenizer.bos_id, *tokenizer.encode(opening)] for opening in openings]
    setting = Setting(SamplingConfig(temperature=temperature))
    drawn = write_stories(IncrementalDecoder(model), prompts, setting, tokenizer.end_ids, seed)
    return [tokenizer.decode(before_end(ids, tokenizer.eot_id)) for ids in drawn]


def describe(name: str, texts: list[str], copies: list[Copy]) -> list[str]:
    """One line of the table."""
    lengths = [copy.words for copy in copies]
    return [
        name,
        f"{np.median([len(text.split()) for text in texts]):.0f}",
        f"{np.median(lengths):.0f}",
        f"{np.mean(lengths):.1f}",
        f"{np.percentile(lengths, 95):.0f}",
        f"{max(lengths)}",
        f"{np.mean([copy.start < 15 for copy in copies]):.0%}",
        f"{sum(copy.large for copy in copies)}",
    ]


HEADER = ("", "words", "median", "mean", "95 of 100", "most", "in the first 15 words", "over half")


def main() -> None:
    """Generate, compare, and print a table for each training text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="stories", help="a folder (default: the bundled model)")
    parser.add_argument("--stories", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=SamplingConfig.temperature)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--also", help="a file of further stories that the model was trained on")
    options = parser.parse_args()
    model, tokenizer = slm.load_model(options.model)
    data = slm.load_stories()
    real = data.validation[: options.stories]
    generator = random.Random(options.seed)
    parts = [split_opening(story, generator.randint(4, 8)) for story in real]
    openings = [opening for opening, _ in parts]
    real_rests = [rest for _, rest in parts]
    drawing = (options.temperature, options.seed)
    written = continue_all(model, tokenizer, [""] * len(real), *drawing)
    rests = continue_all(model, tokenizer, openings, *drawing)

    later = [without_first_sentence(story) for story in written]
    real_later = [without_first_sentence(story) for story in real]
    later_rests = [without_first_sentence(rest) for rest in rests]
    real_later_rests = [without_first_sentence(rest) for rest in real_rests]
    texts = {
        "whole stories: the model's": written,
        "whole stories: real": real,
        "after the first sentence: the model's": later,
        "after the first sentence: real": real_later,
        "continuations: the model's": rests,
        "continuations: real": real_rests,
        "after their first sentence: the model's": later_rests,
        "after their first sentence: real": real_later_rests,
    }
    trained = {f"{len(data.train):,} real stories": data.train}
    if options.also:
        also = slm.load_stories(options.also, n=10_000_000)
        more = [*also.train, *also.validation]
        together = [*data.train, *more]
        trained[f"{len(data.train):,} real stories and {len(more):,} others"] = together
    print(machine())
    print(f"{options.stories} stories, temperature {options.temperature}, seed {options.seed}\n")
    everything = [text for some in texts.values() for text in some]
    for name, stories in trained.items():
        copies = slm.longest_copies(everything, stories)
        rows = []
        for number, (row, some) in enumerate(texts.items()):
            start = number * len(real)
            rows.append(describe(row, some, copies[start : start + len(real)]))
        print(f"Compared with {name}:\n")
        print(table(HEADER, rows), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
