"""The command line, `python -m slm COMMAND` or `slm COMMAND`: finds the command, lets tyro read its
options, and turns whatever goes wrong into one sentence and an exit code."""

import io
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches

import tyro

from slm.cli import commands
from slm.cli.options import explain_unknown_option, with_defaults_of_preset

COMMANDS = {
    "generate": commands.generate,
    "train": commands.train,
    "evaluate": commands.evaluate,
    "finetune": commands.finetune,
    "quantize": commands.quantize,
    "export": commands.export,
    "serve": commands.serve,
    "app": commands.app,
}
USAGE = """usage: python -m slm COMMAND [OPTIONS]

Train, use and share a small language model that writes stories.

commands:
{commands}

python -m slm COMMAND --help lists a command's options, with examples. To begin with:

  python -m slm generate "Once upon a time"            with the bundled model
  python -m slm train                                  your own, in five minutes
  python -m slm evaluate runs/mine --report mine.html  how good is it?
  python -m slm finetune mine.txt --folder runs/tuned  a model that writes as you do
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give the exit code: 0 if all went well; 1 if not, with one sentence that
    says why; 2 for a command or an option that is not understood; 130 where it was interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that cannot show a character: "?"
    try:
        return run(sys.argv[1:] if arguments is None else list(arguments))
    except BrokenPipeError:  # whoever was reading, as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ImportError, OSError, ValueError) as error:
        print(f"slm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(arguments: list[str]) -> int:
    """Run the command that the first argument names, with the others as its options."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0
    name, *options = arguments
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(COMMANDS)}."
        print(f"slm: There is no command {name!r}: {hint}", file=sys.stderr)
        return 2
    call_with_options(name, options)
    return 0


def usage() -> str:
    """What can be done: all commands, each with the first line of its help."""
    lines = []
    for name, command in COMMANDS.items():
        summary = command.__doc__.splitlines()[0]
        lines.append(f"  {name:10}{summary}")
    return USAGE.format(commands="\n".join(lines))


def call_with_options(name: str, options: Sequence[str]) -> None:
    """Call a command with its options. Options that are not understood end Python with exit code 2,
    `--help` with 0. Raises whatever the command raises."""
    command = COMMANDS[name]
    unknown = explain_unknown_option(command, options)
    if unknown:
        print(f"slm: {unknown}", file=sys.stderr)
        raise SystemExit(2)
    if name == "train":
        command = with_defaults_of_preset(command, options)
    tyro.cli(
        command,
        prog=f"python -m slm {name}",
        args=options,
        config=(
            tyro.conf.OmitArgPrefixes,  # --seed, not --sampling.seed
            tyro.conf.FlagCreatePairsOff,  # --fresh alone, without --no-fresh
            tyro.conf.PositionalMetavarFromFieldName,
        ),
    )
