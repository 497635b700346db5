"""The command line, `python -m slm COMMAND`: a thin layer over the functions of the package
(optional)."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from itertools import chain

import slm
from slm.training import PRESETS

EXAMPLES = """examples:
  python -m slm generate "Once upon a time"            with the model in the box
  python -m slm train                                  your own, in five minutes
  python -m slm evaluate runs/mine --report mine.html  how good is it?
"""
GENERATE = """examples:
  python -m slm generate
  python -m slm generate "The little dragon" --temperature 0.5 --seed 1
  python -m slm generate "One day" --model runs/mine --n 3 --max_new_tokens 200
"""
TRAIN = """examples:
  python -m slm train                                  a first story, in five minutes
  python -m slm train --stories mine.txt --minutes 20 --n_layers 6
  python -m slm train --folder runs/mine --n 3000000 --preset full
  torchrun --nproc-per-node=2 -m slm train --steps 500
"""
EVALUATE = """examples:
  python -m slm evaluate                               the model in the box, on TinyStories
  python -m slm evaluate runs/mine --stories mine.txt
  python -m slm evaluate runs/mine --report mine.html  a page for sending to a friend
"""


def parser() -> argparse.ArgumentParser:
    """All commands and options. Settings are the fields of the package's configurations."""
    lines = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("python -m slm", formatter_class=lines, epilog=EXAMPLES)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(run: Callable, help: str, epilog: str) -> argparse.ArgumentParser:
        name = run.__name__.removeprefix("_")  # a misspelt setting must not pass for another
        how = dict(formatter_class=lines, allow_abbrev=False, help=help, description=help)
        new = commands.add_parser(name, epilog=epilog, **how)
        new.set_defaults(run=run)
        return new

    write = command(_generate, "write a story", GENERATE)
    write.add_argument("prompt", nargs="?", default="", help="how it begins; default: with nothing")
    write.add_argument("--model", default="stories", help="a folder; default: the one in the box")
    write.add_argument("--n", type=int, default=1, help="how many stories (%(default)s)")
    _settings(write, slm.SamplingConfig)

    train = command(_train, "train a model on stories", TRAIN)
    train.add_argument("--preset", choices=PRESETS, default="tiny", help="default: tiny")
    _stories(train)
    train.add_argument("--tokenizer", default="stories", help="stories, gpt2, or a folder")
    train.add_argument("--folder", metavar="PATH", help="where the run is kept")
    train.add_argument("--fresh", action="store_true", help="train anew, do not continue")
    _settings(train, slm.ModelConfig, slm.TrainConfig)

    score = command(_evaluate, "measure a model on stories it has not seen", EVALUATE)
    score.add_argument("model", nargs="?", default="stories", help="default: the one in the box")
    _stories(score)
    score.add_argument("--report", metavar="FILE", help="write a page about it, in HTML")
    score.add_argument("--evaluation_stories", type=int, default=300, help="how many (%(default)s)")
    return top


def _stories(command: argparse.ArgumentParser) -> None:
    command.add_argument("--stories", metavar="PATH", help="your own; default: TinyStories")
    command.add_argument("--n", type=int, default=15_000, help="how many stories (%(default)s)")


def _settings(command: argparse.ArgumentParser, *configs: type) -> None:
    for config in configs:
        group = command.add_argument_group(config.__name__)
        for field in fields(config):
            default = "" if field.default is None else f"default: {field.default}"
            how = dict(type=value, default=argparse.SUPPRESS, metavar="VALUE", help=default)
            group.add_argument(f"--{field.name}", **how)


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


def _generate(prompt: str, model: str, n: int, **settings) -> None:
    writer = slm.load_model(model)
    if n == 1:
        for piece in chain(slm.stream(*writer, prompt, **settings), "\n"):
            print(piece, end="", flush=True)
        return
    for number, story in enumerate(slm.generate(*writer, prompt, n=n, **settings)):
        print("\n---\n" * (number > 0) + story)


def _train(stories: str | None, n: int, **settings) -> None:
    load = partial(slm.load_stories, stories, n=n)
    if "WORLD_SIZE" in os.environ:  # torchrun has started several processes
        from slm.distributed import Team

        load = partial(Team.join().in_turn, load)
    run = slm.train(load(), **settings)
    if os.environ.get("RANK", "0") == "0":
        print(f"The model is in {run.folder}.")


def _evaluate(
    model: str, stories: str | None, n: int, report: str | None, evaluation_stories: int
) -> None:
    writer, texts = slm.load_model(model), slm.load_stories(stories, n=n)
    if report:
        how = dict(name=model, file=report, evaluation_stories=evaluation_stories)
        print(f"Wrote {slm.story_report(*writer, texts, **how)}.")
        return
    held_out = texts.validation[:evaluation_stories]
    scores = {model: slm.evaluate(*writer, held_out)}
    scores |= {f"{n}-gram": slm.NGram(texts.train, writer[1], n).evaluate(held_out) for n in (3, 2)}
    width = max(map(len, scores))
    print(f"{'':{width}}  bits per byte  nats per token  perplexity")
    for name, x in scores.items():
        bits, nats = f"{x.bits_per_byte:13.3f}", f"{x.nats_per_token:14.3f}"
        print(f"{name:{width}}  {bits}  {nats}  {x.perplexity:10.1f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0 if all went well; 1 if not, with one sentence that says why; 130 where it
    was interrupted."""
    options = vars(parser().parse_args(arguments))
    run, _ = options.pop("run"), options.pop("command")
    try:
        run(**options)
    except BrokenPipeError:  # whoever was reading, as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ImportError, OSError, ValueError) as error:
        print(f"slm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
