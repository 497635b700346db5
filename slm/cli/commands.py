"""The commands: each a function whose parameters are its options, and whose docstring is its help.

They are thin layers over the functions of the package with the same names. PyTorch is loaded when
`slm` is first asked for one of those, so that the help comes at once."""

import os
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

import slm
from slm.cli.options import (
    FineTuneOptions,
    ModelOptions,
    SamplingOptions,
    TrainOptions,
    as_settings,
)
from slm.settings import Preset, ServerLimits
from slm.utils.files import model_name
from slm.utils.settings_checks import LARGEST_PORT, check_number

if TYPE_CHECKING:
    from slm.finetuning import FineTuned
    from slm.training import Run


def generate(
    sampling: SamplingOptions,
    prompt: Positional[str] = "",
    model: str = "stories",
    n: int = 1,
) -> None:
    """Write a story.

    examples:
      python -m slm generate
      python -m slm generate "The little dragon" --temperature 0.5 --seed 1
      python -m slm generate "One day" --model runs/mine --n 3 --max-new-tokens 200

    Args:
        prompt: How the story begins.
        model: A folder that holds a model, or "owner/name" on the hub; stories: the bundled model.
        n: How many stories to write.
    """
    transformer, tokenizer = slm.load_model(model)
    settings = asdict(sampling)
    if n == 1:
        for piece in slm.stream(transformer, tokenizer, prompt, **settings):
            print(piece, end="", flush=True)
        print()
    else:
        stories = slm.generate(transformer, tokenizer, prompt, n=n, **settings)
        print("\n\n---\n".join(stories))


def train(
    model: ModelOptions,
    training: TrainOptions,
    preset: Preset = "tiny",
    stories: str | None = None,
    n_stories: Annotated[int, arg(aliases=["--n"])] = 15_000,
    tokenizer: str = "stories",
    folder: str | None = None,
    fresh: bool = False,
) -> None:
    """Train a model on stories.

    examples:
      python -m slm train
      python -m slm train --stories mine.txt --minutes 20 --n-layers 6
      python -m slm train --folder runs/mine --n-stories 3000000 --preset full
      python -m slm train --teachers stories
      torchrun --nproc-per-node=2 -m slm train --steps 500

    Args:
        preset: tiny: 5 minutes on two cores; small: 2 hours; full: 2 billion tokens, for a GPU.
            Any option below takes the place of the preset's value.
        stories: Your own stories, a file or a folder of files; None: TinyStories.
        n_stories: How many stories to train on, at most.
        tokenizer: stories, gpt2, or a folder that holds a tokenizer.
        folder: Where the run is saved, and resumed; None: a name made from its settings.
        fresh: Start over, do not resume the run in the folder.
    """
    from slm.training.run_folder import SaveError

    check_number("n_stories", n_stories, whole=True, low=1)
    load_stories = partial(slm.load_stories, stories, n=n_stories)
    if "WORLD_SIZE" in os.environ:  # torchrun has started several processes
        from slm.hardware.processes import ProcessGroup

        loaded = ProcessGroup.join().in_turn(load_stories)
    else:
        loaded = load_stories()
    settings = as_settings(model, training)
    try:
        run = slm.train(
            loaded, preset=preset, tokenizer=tokenizer, folder=folder, fresh=fresh, **settings
        )
    except SaveError as error:
        save_elsewhere(error.run)
        raise OSError(error.reason) from None
    if os.environ.get("RANK", "0") == "0":
        print(f"The model is in {run.folder}.")


def save_elsewhere(trained: "Run | FineTuned") -> None:
    """Save a model, which would end with this process, where temporary files are kept."""
    folder = mkdtemp(prefix="slm-")
    with suppress(OSError):  # no room there either: the sentence that follows says why
        slm.save_model(folder, trained.model, trained.tokenizer)
        print(f"The model is in {folder} instead: move it from there.", flush=True)


def evaluate(
    model: Positional[str] = "stories",
    stories: str | None = None,
    n_stories: Annotated[int, arg(aliases=["--n"])] = 15_000,
    evaluation_stories: int = 300,
    report: str | None = None,
) -> None:
    """Measure a model on stories it has not seen, beside models that only count tokens.

    examples:
      python -m slm evaluate
      python -m slm evaluate runs/mine --stories mine.txt
      python -m slm evaluate runs/mine --report mine.html

    Args:
        model: A folder that holds a model, or "owner/name" on the hub; stories: the bundled model.
        stories: Your own stories, a file or a folder of files; None: TinyStories.
        n_stories: How many training stories the counting models see, at most.
        evaluation_stories: How many held-out stories to measure on, at most.
        report: Write a page of scores, samples and copies to this HTML file instead.
    """
    check_number("n_stories", n_stories, whole=True, low=1)
    check_number("evaluation_stories", evaluation_stories, whole=True, low=1)
    transformer, tokenizer = slm.load_model(model)
    loaded = slm.load_stories(stories, n=n_stories)
    if report:
        file = slm.story_report(
            transformer,
            tokenizer,
            loaded,
            name=model,
            file=report,
            evaluation_stories=evaluation_stories,
        )
        print(f"Wrote {file}.")
        return
    held_out = loaded.validation[:evaluation_stories]
    scores = {
        model: slm.evaluate(transformer, tokenizer, held_out),
        "3-gram": slm.NGram(loaded.train, tokenizer, 3).evaluate(held_out),
        "2-gram": slm.NGram(loaded.train, tokenizer, 2).evaluate(held_out),
    }
    width = max(len(name) for name in scores)
    print(f"{'':{width}}  bits per byte  nats per token  perplexity")
    for name, score in scores.items():
        bits = f"{score.bits_per_byte:13.3f}"
        nats = f"{score.nats_per_token:14.3f}"
        print(f"{name:{width}}  {bits}  {nats}  {score.perplexity:10.1f}")


def finetune(
    settings: FineTuneOptions,
    stories: Positional[str],
    *,
    folder: str,
    model: str = "stories",
) -> None:
    """Fine-tune a model on your own stories.

    examples:
      python -m slm finetune mine.txt --folder runs/tuned
      python -m slm finetune diary/ --folder runs/diary --epochs 5 --replay 0.5
      python -m slm finetune mine.txt --folder runs/lora --lora-rank 8

    Args:
        stories: Your stories: a file, or a folder of files.
        folder: Where the new model is saved.
        model: A folder that holds a model, or "owner/name" on the hub; stories: the bundled model.
    """
    transformer, tokenizer = slm.load_model(model)
    tuned = slm.finetune(transformer, tokenizer, stories, folder=folder, **asdict(settings))
    print(tuned)
    if tuned.folder is None:
        if tuned.epochs:
            save_elsewhere(tuned)
        raise OSError(f"The model was not saved in {folder}.")
    print(f"\nThe model is in {tuned.folder}.")


def quantize(
    model: Positional[str],
    folder: Positional[str],
    bits: Literal[8, 4] = 8,
    group_size: int | None = None,
) -> None:
    """Make a model small: its weights in 8 or 4 bits.

    examples:
      python -m slm quantize stories runs/small
      python -m slm quantize runs/mine runs/small --bits 4 --group-size 64

    Args:
        model: A folder that holds a model, or "owner/name" on the hub; stories: the bundled model.
        folder: Where the quantized model is saved.
        bits: Bits of a weight.
        group_size: Weights that share a scale; None: a whole row with 8 bits, 32 with 4.
    """
    transformer, tokenizer = slm.load_model(model)
    saved = slm.save_model(folder, slm.quantize(transformer, bits, group_size), tokenizer)
    megabytes = (saved / "model.safetensors").stat().st_size / 1e6
    float32_megabytes = 4 * sum(weight.numel() for weight in transformer.parameters()) / 1e6
    print(f"{megabytes:.2f} MB instead of {float32_megabytes:.2f} in 32 bits.", end=" ")
    print(f"The model is in {folder}.")


def export(
    model: Positional[str],
    to: Positional[str],
    gguf_type: Annotated[Literal["f32", "f16", "q8_0", "q4_0"], arg(name="type")] = "f16",
    int8: bool = False,
    title: str = "A story-teller",
    max_megabytes: float = 5.0,
) -> None:
    """Write a model for others: one HTML file for everybody, llama.cpp, onnxruntime, the hub.

    examples:
      python -m slm export stories story.gguf              for llama.cpp, Ollama, LM Studio
      python -m slm export runs/mine mine.gguf --type q8_0
      python -m slm export runs/mine mine.onnx --int8      for a browser or a phone
      python -m slm export runs/mine story.html            a page that writes stories, to be sent
      python -m slm export runs/mine you/your-model        to the hub

    Args:
        model: A folder that holds a model; stories: the bundled model.
        to: A .gguf file (for llama.cpp, Ollama), an .onnx or .html file, or a name on the hub.
        gguf_type: Number format of the matrices in a .gguf file.
        int8: Matrices in 8 bits in an .onnx file.
        title: Title of an .html file.
        max_megabytes: How large an .html file may become.
    """
    if to.endswith(".gguf"):
        file = slm.export_gguf(model, to, gguf_type)
        print(f"Wrote {file}, and a Modelfile for Ollama beside it.")
    elif to.endswith(".onnx"):
        file = slm.export_onnx(model, to, int8=int8)
        print(f"Wrote {file}.")
    elif to.endswith(".html"):
        file = slm.export_html(model, to, title=title, max_megabytes=max_megabytes)
        print(f"Wrote {file}: a double click opens it.")
    elif "/" in to and not Path(to).suffix:
        address = slm.push_to_hub(model, to)
        print(f"It is at {address}.")
    else:
        raise ValueError(f"Give a .gguf, .onnx or .html file or a name on the hub, not {to!r}.")


def serve(
    model: Positional[str] = "stories",
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    origin: UseAppendAction[tuple[str, ...]] = (),
    max_stories: int = ServerLimits.stories,
    max_waiting: int = ServerLimits.waiting,
    max_prompt: int = ServerLimits.prompt,
    max_tokens: int = ServerLimits.tokens,
    max_body: int = ServerLimits.body,
    max_connections: int = ServerLimits.connections,
    cache_megabytes: float = ServerLimits.cache_megabytes,
    unread: int = ServerLimits.unread,
    header_seconds: float = ServerLimits.header_seconds,
    body_seconds: float = ServerLimits.body_seconds,
    read_seconds: float = ServerLimits.read_seconds,
    idle_seconds: float = ServerLimits.idle_seconds,
) -> None:
    """Serve a model over HTTP, by OpenAI's protocol: completions, and chat completions.

    examples:
      python -m slm serve
      python -m slm serve runs/mine --port 9000 --api-key secret

    then, with any OpenAI client:
      curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" \\
        -d '{"prompt": "Once upon a time", "max_tokens": 100}'

    Args:
        model: A folder that holds a model, or "owner/name" on the hub; stories: the bundled model.
        host: The address to listen at; 0.0.0.0: other computers can reach it too.
        port: The port to listen at.
        api_key: What clients must send as a bearer token; None: the variable SLM_API_KEY, if set.
        origin: A web page that may send requests from a browser; can be given several times.
        max_stories: Stories decoded at the same time, and the most that one request may ask for.
        max_waiting: Stories that may wait for their turn.
        max_prompt: Characters of a prompt.
        max_tokens: New tokens of one story.
        max_body: Bytes of a request.
        max_connections: Connections that are open at the same time.
        cache_megabytes: The most that the key-value cache may take; it grows with use.
        unread: Tokens of a streamed story that are written ahead of a slow reader.
        header_seconds: Time in which a request's headers must have come.
        body_seconds: Time in which a request's body must have come.
        read_seconds: Time in which a client that has fallen behind must read on.
        idle_seconds: Time that a connection may rest between two requests.
    """
    try:
        from slm.serving import server
    except ImportError as error:
        raise ImportError(f"Serving needs pip install fastapi-offline uvicorn ({error}).") from None
    check_number("max_stories", max_stories, whole=True, low=1)
    check_number("max_waiting", max_waiting, whole=True, low=0)
    check_number("max_prompt", max_prompt, whole=True, low=0)
    check_number("max_tokens", max_tokens, whole=True, low=1)
    check_number("max_body", max_body, whole=True, low=1)
    check_number("max_connections", max_connections, whole=True, low=1)
    limits = ServerLimits(
        stories=max_stories,
        waiting=max_waiting,
        prompt=max_prompt,
        tokens=max_tokens,
        body=max_body,
        connections=max_connections,
        cache_megabytes=cache_megabytes,
        unread=unread,
        header_seconds=header_seconds,
        body_seconds=body_seconds,
        read_seconds=read_seconds,
        idle_seconds=idle_seconds,
    )
    server.serve(
        *slm.load_model(model),
        model_name(model),
        host=host,
        port=port,
        limits=limits,
        api_key=api_key or os.environ.get("SLM_API_KEY"),
        origins=origin,
    )


def app(port: int = 8501, headless: bool = False) -> None:
    """Open the page for writing stories in a browser.

    examples:
      python -m slm app

    Args:
        port: The port that the page is served at, on this computer alone.
        headless: Do not open a browser.
    """
    try:
        from streamlit.web import bootstrap
    except ImportError:
        raise ImportError("The page needs pip install streamlit.") from None
    check_number("port", port, whole=True, low=1, high=LARGEST_PORT)
    options = {
        "server.port": port,
        "server.headless": headless,
        "server.address": "127.0.0.1",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
        # Else all threads wait for a full garbage collection whenever a story has grown by a word.
        "runner.postScriptGC": False,
    }
    bootstrap.load_config_options(options)
    page = Path(__file__).parents[1] / "page" / "app.py"
    bootstrap.run(str(page), False, [], options)
