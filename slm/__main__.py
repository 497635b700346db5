"""The command line: `python -m slm train`, and `torchrun ... -m slm train` for several processes.
A thin layer over the functions of the package (optional)."""

import argparse
import os
import sys
from dataclasses import fields
from functools import partial

import slm
from slm.training import PRESETS

EXAMPLES = """examples:
  python -m slm train                                  a first story, in five minutes
  python -m slm train --stories mine.txt --minutes 20 --n_layers 6
  python -m slm train --folder runs/mine --n 3000000 --preset full
  torchrun --nproc-per-node=2 -m slm train --steps 500
"""


def parser() -> argparse.ArgumentParser:
    """All commands and options. Those of `train` are the fields of the two configurations."""
    lines = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("python -m slm", formatter_class=lines, epilog=EXAMPLES)
    commands = top.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train",
        help="train a model on stories",
        formatter_class=lines,
        epilog=EXAMPLES,
        allow_abbrev=False,  # a misspelt setting must not pass for another
    )
    train.add_argument("--preset", choices=PRESETS, default="tiny", help="default: tiny")
    train.add_argument("--stories", metavar="PATH", help="your own; default: TinyStories")
    train.add_argument("--n", type=int, default=15_000, help="how many stories (%(default)s)")
    train.add_argument("--tokenizer", default="stories", help="stories, gpt2, or a folder")
    train.add_argument("--folder", metavar="PATH", help="where the run is kept")
    train.add_argument("--fresh", action="store_true", help="train anew, do not continue")
    for config in (slm.ModelConfig, slm.TrainConfig):
        group = train.add_argument_group(config.__name__, "in place of the preset's")
        for field in fields(config):
            group.add_argument(f"--{field.name}", type=value, default=argparse.SUPPRESS)
    return top


def value(text: str) -> object:
    """What a setting's text means: true, false, none, a number, or itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 if all went well, 1 if not, with one sentence that says why."""
    options = vars(parser().parse_args(arguments))
    options.pop("command")
    try:
        load = partial(slm.load_stories, options.pop("stories"), n=options.pop("n"))
        if "WORLD_SIZE" in os.environ:  # torchrun has started several processes
            from slm.distributed import Team

            stories = Team.join().in_turn(load)
        else:
            stories = load()
        run = slm.train(stories, **options)
    except (OSError, ValueError) as error:
        print(f"slm: {error}", file=sys.stderr)
        return 1
    if os.environ.get("RANK", "0") == "0":
        print(f"The model is in {run.folder}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
