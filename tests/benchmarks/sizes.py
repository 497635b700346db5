"""What do fewer bits cost, here and in the tools that people use? Size, memory, bits per byte, and
tokens per second of one story, for each form of one model. The memory is what a process of its own
holds more after loading the form than before, and how much more at most while it writes: copies for
speed, keys and values, working space. Run: python tests/benchmarks/sizes.py"""

import argparse
import ctypes
import gc
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from common import in_turns, machine, resident, serve, table, worker

import slm
from slm.export.gguf import GGUF_TYPES
from slm.generation.decoder import IncrementalDecoder
from slm.generation.text_generation import generate_ids
from slm.tokenizer.byte_pair import Tokenizer

HEADER = (
    "form",
    "MB",
    "of 32 bits",
    "MB held",
    "at most",
    "bits per byte",
    "change",
    "tokens/s",
    "times",
)


@dataclass(frozen=True)
class Conditions:
    """What is the same for all forms of the model."""

    config: slm.ModelConfig
    bos_id: int  # the token that begins a story
    new_tokens: int  # of the story that is written
    threads: int


@dataclass(frozen=True)
class LoadedForm:
    """One form of the model, in a program that runs it."""

    logits: Callable[[Sequence[int]], np.ndarray]  # ids to logits (T, V)
    write: Callable[[], None]  # one story, always of the likeliest tokens


@dataclass(frozen=True)
class Figures:
    """What is measured of one form."""

    file_bytes: int
    megabytes_held: float
    megabytes_at_most: float
    bits_per_byte: float
    tokens_per_second: float


# --- The programs ---------------------------------------------------------------------------------


def load_in_slm(folder: Path, conditions: Conditions) -> LoadedForm:
    """A model of ours, whole or quantized."""
    model, _ = slm.load_model(folder)
    sampling = slm.SamplingConfig(max_new_tokens=conditions.new_tokens, temperature=0)

    def logits(ids: Sequence[int]) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor([ids]))[0].numpy()

    def write() -> None:
        prompts = [[conditions.bos_id]]
        list(generate_ids(IncrementalDecoder(model), prompts, sampling, end_ids=()))

    return LoadedForm(logits, write)


def load_in_llama_cpp(file: Path, conditions: Conditions) -> LoadedForm:
    """A GGUF file in llama.cpp."""
    from llama_cpp import Llama

    @cache
    def llama(*, logits_all: bool) -> Llama:
        return Llama(
            str(file),
            logits_all=logits_all,
            n_ctx=conditions.config.context_length,
            n_threads=conditions.threads,
            n_threads_batch=conditions.threads,
            verbose=False,
        )

    def logits(ids: Sequence[int]) -> np.ndarray:
        reader = llama(logits_all=True)
        reader.reset()
        reader.eval(list(ids))
        return reader.scores[: len(ids)].copy()

    writer = llama(logits_all=False)

    def write() -> None:
        writer.reset()
        tokens = writer.generate([conditions.bos_id], temp=0.0)
        for _ in range(conditions.new_tokens):
            next(tokens)

    return LoadedForm(logits, write)


def load_in_onnxruntime(file: Path, conditions: Conditions) -> LoadedForm:
    """An ONNX file in onnxruntime."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = conditions.threads
    session = InferenceSession(file, options, providers=["CPUExecutionProvider"])
    config = conditions.config
    shape = (config.n_layers, 1, 2 * config.n_kv_heads, 0, config.head_dim)
    empty_cache = np.zeros(shape, np.float32)

    def run(ids: Sequence[int], past: np.ndarray) -> list[np.ndarray]:
        inputs = {"ids": np.array([ids], np.int64), "past": past}
        return session.run(["logits", "present"], inputs)

    def logits(ids: Sequence[int]) -> np.ndarray:
        batch_logits, _ = run(ids, empty_cache)  # (1, T, V)
        return batch_logits[0]

    def write() -> None:
        newest = conditions.bos_id
        past = empty_cache
        for _ in range(conditions.new_tokens):
            batch_logits, past = run([newest], past)
            newest = int(batch_logits[0, -1].argmax())

    return LoadedForm(logits, write)


LOADERS = {
    "slm": load_in_slm,
    "llama.cpp": load_in_llama_cpp,
    "onnxruntime": load_in_onnxruntime,
}


def save_forms(
    model: slm.Transformer, tokenizer: Tokenizer, folder: Path
) -> dict[tuple[str, str], Path]:
    """Save the model in every form that an installed program reads: by program and form."""
    files = {}
    for bits in (32, 8, 4):
        form = model if bits == 32 else slm.quantize(model, bits)
        files["slm", f"{bits} bits"] = slm.save_model(folder / f"{bits}", form, tokenizer)
    if find_spec("gguf") and find_spec("llama_cpp"):
        for kind in GGUF_TYPES:
            file = slm.export_gguf(folder / "32", folder / f"{kind}.gguf", kind)
            files["llama.cpp", kind] = file
    if find_spec("onnx") and find_spec("onnxscript") and find_spec("onnxruntime"):
        for int8 in (False, True):
            file = slm.export_onnx(folder / "32", folder / f"{int8}.onnx", int8=int8)
            files["onnxruntime", "int8" if int8 else "32 bits"] = file
    return files


# --- Bits per byte --------------------------------------------------------------------------------


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of the last axis, in float64."""
    logits = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def bits_per_byte(
    form: LoadedForm, tokenizer: Tokenizer, stories: Sequence[str], context_length: int
) -> float:
    """By the definition of `slm.evaluate`, but from any program's logits."""
    nats = 0.0
    for story in stories:
        ids = [tokenizer.bos_id, *tokenizer.encode(story), tokenizer.eot_id]
        for start in range(0, len(ids) - 1, context_length):
            window = ids[start : start + context_length + 1]
            inputs = window[:-1]
            targets = window[1:]
            logprobs = log_softmax(form.logits(inputs))  # (T, V)
            nats -= logprobs[np.arange(len(targets)), targets].sum()
    story_bytes = sum(len(story.encode()) + 1 for story in stories)  # one for each story's end
    return nats / math.log(2) / story_bytes


# --- Memory: each form in a process of its own ----------------------------------------------------


def held_after_trimming() -> float:
    """Megabytes that this process holds, after what was freed has been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident()


def work(program: str, path: str, conditions_json: str) -> None:
    """What one worker does: load one form, write a story, and answer what memory that took."""
    values = json.loads(conditions_json)
    conditions = Conditions(**values | {"config": slm.ModelConfig(**values["config"])})
    torch.set_num_threads(conditions.threads)
    write_with_tiny_model(conditions)
    if program == "llama.cpp":
        import llama_cpp  # noqa: F401
    elif program == "onnxruntime":
        import onnxruntime  # noqa: F401

    before = held_after_trimming()
    form = LOADERS[program](Path(path), conditions)
    held = held_after_trimming() - before
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM starts anew
    form.write()
    serve(lambda: (held, resident(what="VmHWM") - before))


def write_with_tiny_model(conditions: Conditions) -> None:
    """Write a story once, so that what a process takes only once is there before it is measured."""
    tokenizer = slm.load_tokenizer()
    tiny = slm.ModelConfig(tokenizer.vocab_size, n_layers=1, n_heads=1, d_model=32)
    with TemporaryDirectory() as folder:
        slm.save_model(folder, slm.Transformer(tiny), tokenizer)
        few_tokens = Conditions(tiny, conditions.bos_id, new_tokens=20, threads=conditions.threads)
        load_in_slm(Path(folder), few_tokens).write()


def measure_memory(program: str, path: Path, conditions: Conditions) -> tuple[float, float]:
    """The megabytes that one form holds, and holds at most while it writes."""
    with worker(__file__, "--worker", program, path, json.dumps(asdict(conditions))) as run:
        held, at_most = run()
    return held, at_most


# --- All together ---------------------------------------------------------------------------------


def measure(
    files: dict[tuple[str, str], Path],
    tokenizer: Tokenizer,
    stories: Sequence[str],
    conditions: Conditions,
    rounds: int,
) -> dict[tuple[str, str], Figures]:
    """The figures of each form. Their stories are written in turns."""
    memory = {}
    forms = {}
    for name, path in files.items():
        program, _ = name
        memory[name] = measure_memory(program, path, conditions)
        forms[name] = LOADERS[program](path, conditions)

    runs = {name: timed(form.write) for name, form in forms.items()}
    seconds = in_turns(runs, rounds)
    context_length = conditions.config.context_length
    figures = {}
    for name, form in forms.items():
        held, at_most = memory[name]
        figures[name] = Figures(
            file_bytes=weights_file(files[name]).stat().st_size,
            megabytes_held=held,
            megabytes_at_most=at_most,
            bits_per_byte=bits_per_byte(form, tokenizer, stories, context_length),
            tokens_per_second=conditions.new_tokens / median(seconds[name]),
        )
    return figures


def timed(run: Callable[[], None]) -> Callable[[], float]:
    """A function that does the same, and returns how many seconds it took."""

    def timed_run() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return timed_run


def weights_file(path: Path) -> Path:
    """The file of the weights: itself, or the one in a folder that `slm.save_model` wrote."""
    return path / "model.safetensors" if path.is_dir() else path


def figures_table(figures: dict[tuple[str, str], Figures]) -> str:
    """A row for each form, compared with the first."""
    first = next(iter(figures.values()))
    rows = []
    for name, each in figures.items():
        rows.append(
            (
                ", ".join(name),
                f"{each.file_bytes / 1e6:.2f}",
                f"{each.file_bytes / first.file_bytes:.1%}",
                f"{each.megabytes_held:.0f}",
                f"{each.megabytes_at_most:.0f}",
                f"{each.bits_per_byte:.4f}",
                f"{each.bits_per_byte / first.bits_per_byte - 1:+.2%}",
                f"{each.tokens_per_second:,.0f}",
                f"{each.tokens_per_second / first.tokens_per_second:.2f}",
            )
        )
    return table(HEADER, rows)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="stories", help="a folder, or a name in the package")
    parser.add_argument("--stories", type=int, default=100, help="to score on")
    parser.add_argument("--new-tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def main() -> None:
    """Measure, and print the table."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    model, tokenizer = slm.load_model(options.model)
    stories = slm.load_stories().validation[: options.stories]
    conditions = Conditions(
        config=model.config,
        bos_id=tokenizer.bos_id,
        new_tokens=min(options.new_tokens, model.config.context_length - 1),
        threads=options.threads,
    )
    with TemporaryDirectory() as folder:
        files = save_forms(model, tokenizer, Path(folder))
        figures = measure(files, tokenizer, stories, conditions, options.rounds)
    print(machine("llama-cpp-python", "onnxruntime", threads=options.threads), "\n")
    print(figures_table(figures))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        main()
