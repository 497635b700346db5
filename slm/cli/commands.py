"""The command line, `python -m slm COMMAND`: a thin layer over the functions of the package
(optional)."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from itertools import chain
from pathlib import Path

import slm
from slm.settings import PRESETS, FineTuneConfig

EXAMPLES = """examples:
  python -m slm generate "Once upon a time"            with the model in the box
  python -m slm train                                  your own, in five minutes
  python -m slm evaluate runs/mine --report mine.html  how good is it?
  python -m slm finetune mine.txt --folder runs/mine   a model that speaks as you write
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
  python -m slm train --teachers stories               distilled from the model in the box
  torchrun --nproc-per-node=2 -m -- slm train --steps 500
"""
FINETUNE = """examples:
  python -m slm finetune mine.txt --folder runs/mine
  python -m slm finetune diary/ --folder runs/diary --epochs 5 --replay 0.5
  python -m slm finetune mine.txt --folder runs/lora --lora_rank 8
"""
QUANTIZE = """examples:
  python -m slm quantize stories runs/small --bits 8
  python -m slm quantize runs/mine runs/tiny --bits 4 --group_size 64
"""
EXPORT = """examples:
  python -m slm export stories story.gguf              for llama.cpp, Ollama, LM Studio
  python -m slm export runs/mine mine.gguf --type q8_0
  python -m slm export runs/mine mine.onnx             for a browser or a phone
  python -m slm export runs/mine you/your-model        to the hub
"""
SERVE = """examples:
  python -m slm serve                                  the model in the box, at port 8000
  python -m slm serve runs/mine --port 9000 --api_key secret

then, with any OpenAI client:
  curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" \\
    -d '{"prompt": "Once upon a time", "max_tokens": 100}'
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

    tune = command(_finetune, "teach a model your own stories", FINETUNE)
    tune.add_argument("stories", help="a file, or a folder of files")
    tune.add_argument("--model", default="stories", help="a folder; default: the one in the box")
    tune.add_argument("--folder", required=True, help="where the new model is kept")
    _settings(tune, FineTuneConfig)

    small = command(_quantize, "make a model small: weights in 8 or 4 bits", QUANTIZE)
    small.add_argument("model", help="a folder, or stories: the one in the box")
    small.add_argument("folder", help="where the small one is kept")
    small.add_argument("--bits", type=int, default=8, help="8 or 4 (%(default)s)")
    small.add_argument("--group_size", type=int, help="weights that share a scale")

    export = command(_export, "hand a model to other tools", EXPORT)
    export.add_argument("model", help="a folder, or stories: the one in the box")
    export.add_argument("to", help="a .gguf or .onnx file, or a name on the hub: you/your-model")
    export.add_argument(
        "--type", default="f16", help="of .gguf: f32, f16, q8_0, q4_0 (%(default)s)"
    )
    export.add_argument("--int8", action="store_true", help="of .onnx: matrices in 8 bits")

    serve = command(_serve, "serve stories over HTTP, as OpenAI's completions", SERVE)
    serve.add_argument("model", nargs="?", default="stories", help="default: the one in the box")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0: all may ask (%(default)s)")
    serve.add_argument("--port", type=int, default=8000, help="(%(default)s)")
    serve.add_argument("--api_key", default=os.environ.get("SLM_API_KEY"), help="or $SLM_API_KEY")
    serve.add_argument("--origin", action="append", default=[], help="a web page that may ask")
    for name, most in (("stories", 32), ("waiting", 64), ("prompt", 20_000), ("tokens", 2_000)):
        serve.add_argument(f"--most_{name}", type=int, default=most, help="(%(default)s)")

    page = command(_app, "open the page in a browser", "")
    page.add_argument("--port", type=int, default=8501, help="(%(default)s)")
    page.add_argument("--headless", action="store_true", help="do not open a browser")
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
        from slm.hardware.processes import Team

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


def _finetune(model: str, stories: str, folder: str, **settings) -> None:
    print(slm.finetune(*slm.load_model(model), stories, folder=folder, **settings))
    print(f"\nThe model is in {folder}.")


def _quantize(model: str, folder: str, bits: int, group_size: int | None) -> None:
    large, tokenizer = slm.load_model(model)
    slm.save_model(folder, slm.quantize(large, bits, group_size), tokenizer)
    size = (Path(folder) / "model.safetensors").stat().st_size
    whole = 4 * sum(weight.numel() for weight in large.parameters())
    print(f"{size / 1e6:.2f} MB instead of {whole / 1e6:.2f} in 32 bits. The model is in {folder}.")


def _export(model: str, to: str, type: str, int8: bool) -> None:
    if to.endswith(".gguf"):
        print(f"Wrote {slm.export_gguf(model, to, type)}, and a Modelfile for Ollama beside it.")
    elif to.endswith(".onnx"):
        print(f"Wrote {slm.export_onnx(model, to, int8=int8)}.")
    elif "/" in to and not Path(to).suffix:
        print(f"It is at {slm.push_to_hub(model, to)}.")
    else:
        raise ValueError(f"Give a .gguf or .onnx file or a name on the hub, not {to!r}.")


def _serve(
    model: str, host: str, port: int, api_key: str | None, origin: list[str], **most: int
) -> None:
    try:
        import uvicorn

        from slm.serving.api import create_app
        from slm.settings import Limits
    except ImportError as error:
        raise ImportError(f"Serving needs pip install fastapi-offline uvicorn ({error}).") from None
    limits = Limits(**{name.removeprefix("most_"): value for name, value in most.items()})
    how = dict(limits=limits, api_key=api_key, origins=origin)
    app = create_app(*slm.load_model(model), Path(model).name, **how)
    print(f"Stories at http://{host}:{port}/v1/completions; try it at http://{host}:{port}/docs")
    uvicorn.run(app, host=host, port=port, log_level="warning")


def _app(port: int, headless: bool) -> None:
    try:
        from streamlit.web import bootstrap
    except ImportError:
        raise ImportError("The page needs pip install streamlit.") from None
    how = {"server.port": port, "server.headless": headless, "server.address": "127.0.0.1"}
    how |= {"browser.gatherUsageStats": False, "server.fileWatcherType": "none"}
    how |= {"client.toolbarMode": "minimal"}
    bootstrap.load_config_options(how)
    bootstrap.run(str(Path(__file__).parent.parent / "serving" / "page.py"), False, [], how)


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
