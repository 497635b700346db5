"""How many stories go round in circles, "Mr. Mr. Mr. ..."? Counted among 200 of a model, for
several sampling settings. Run: python tests/benchmarks/loops.py --model FOLDER

A story circles where the same words, up to eight of them, come four times in a row, or where the
same five words come five times anywhere. Beside it: how many stories end by themselves, and
distinct-3, the share of different runs of three words (Li et al. 2016, arXiv:1510.03055)."""

import argparse
from collections import Counter

from common import machine, table

import slm
from slm.generation.decoder import IncrementalDecoder
from slm.generation.text_generation import before_end, generate_ids

SETTINGS = {
    "the defaults": {},
    "min-p 0": {"min_p": 0},
    "min-p 0.1": {"min_p": 0.1},
    "temperature 0.7": {"temperature": 0.7},
    "temperature 0.9": {"temperature": 0.9},
    "repetition penalty 1.05": {"repetition_penalty": 1.05},
    "repetition penalty 1.2": {"repetition_penalty": 1.2},
}
LONGEST_CYCLE = 8  # words
TIMES_IN_A_ROW = 4
PHRASE = 5  # words
PHRASE_TIMES = 5


def circles(story: str) -> bool:
    """Whether a story goes round in circles."""
    words = story.split()
    phrases = Counter(zip(*(words[start:] for start in range(PHRASE))))
    if phrases and max(phrases.values()) >= PHRASE_TIMES:
        return True
    return any(has_cycle(words, length) for length in range(1, LONGEST_CYCLE + 1))


def has_cycle(words: list[str], length: int) -> bool:
    """Whether some `length` words come TIMES_IN_A_ROW times in a row: then so many words in a row
    are each the same as the one `length` places before."""
    needed = length * (TIMES_IN_A_ROW - 1)
    same = 0
    for before, word in zip(words, words[length:]):
        same = same + 1 if word == before else 0
        if same >= needed:
            return True
    return False


def main() -> None:
    """Generate, count, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="stories", help="a folder (default: the bundled model)")
    parser.add_argument("--stories", type=int, default=200, help="for each setting (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help=f"some of: {', '.join(SETTINGS)}")
    options = parser.parse_args()
    model, tokenizer = slm.load_model(options.model)
    decoder = IncrementalDecoder(model)
    rows = []
    for name in options.only or SETTINGS:
        sampling = slm.SamplingConfig(seed=options.seed, **SETTINGS[name])
        prompt, eot = [tokenizer.bos_id], tokenizer.eot_id
        steps = generate_ids(decoder, [prompt], sampling, [eot], n=options.stories)
        drawn = list(zip(*steps, strict=True))
        stories = [tokenizer.decode(before_end(ids, eot)) for ids in drawn]
        circling = [story for story in stories if circles(story)]
        ended = sum(eot in ids for ids in drawn)
        rows.append((name, len(circling), ended, f"{slm.distinct(stories, 3):.3f}"))
        for story in circling[:3]:
            print(f"{name}: ... {story[-150:]!r}", flush=True)
    print(machine())
    print(f"Of {options.stories} stories without a prompt, seed {options.seed}:\n")
    print(table(("sampling", "circle", "ended", "distinct-3"), rows))


if __name__ == "__main__":
    main()
