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
from dataclasses import asdict
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

Scores = Callable[[Sequence[int]], np.ndarray]  # ids to logits (T, V)
Writes = Callable[[], None]  # so many tokens of one story


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of the last axis, in float64."""
    logits = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def bits_per_byte(scores: Scores, tokenizer, stories: Sequence[str], length: int) -> float:
    """By the definition of `slm.evaluate`, but from any program's logits."""
    nats = 0.0
    for story in stories:
        ids = [tokenizer.bos_id, *tokenizer.encode(story), tokenizer.eot_id]
        for start in range(0, len(ids) - 1, length):
            window = ids[start : start + length + 1]
            logprobs = log_softmax(scores(window[:-1]))
            nats -= logprobs[np.arange(len(window) - 1), window[1:]].sum()
    return nats / math.log(2) / sum(len(story.encode()) + 1 for story in stories)


def ours(folder: Path, config, threads: int, bos: int, count: int) -> tuple[Scores, Writes]:
    """A model of ours, whole or quantized."""
    model, _ = slm.load_model(folder)
    how = slm.SamplingConfig(max_new_tokens=count, temperature=0)

    def scores(ids: Sequence[int]) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor([ids]))[0].numpy()

    def writes() -> None:
        list(generate_ids(IncrementalDecoder(model), [[bos]], how, ()))

    return scores, writes


def llama_cpp(file: Path, config, threads: int, bos: int, count: int) -> tuple[Scores, Writes]:
    """A GGUF file in llama.cpp."""
    from llama_cpp import Llama

    @cache
    def llama(*, logits_all: bool) -> Llama:
        how = dict(n_threads=threads, n_threads_batch=threads, verbose=False)
        return Llama(str(file), logits_all=logits_all, n_ctx=config.context_length, **how)

    def scores(ids: Sequence[int]) -> np.ndarray:
        reader = llama(logits_all=True)
        reader.reset()
        reader.eval(list(ids))
        return reader.scores[: len(ids)].copy()

    writer = llama(logits_all=False)

    def writes() -> None:
        writer.reset()
        for _, _ in zip(writer.generate([bos], temp=0.0), range(count)):
            pass

    return scores, writes


def onnx(file: Path, config, threads: int, bos: int, count: int) -> tuple[Scores, Writes]:
    """An ONNX file in onnxruntime."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = threads
    session = InferenceSession(file, options, providers=["CPUExecutionProvider"])
    empty = (config.n_layers, 1, 2 * config.n_kv_heads, 0, config.head_dim)

    def run(ids: Sequence[int], past: np.ndarray) -> list[np.ndarray]:
        given = {"ids": np.array([ids], np.int64), "past": past}
        return session.run(["logits", "present"], given)

    def scores(ids: Sequence[int]) -> np.ndarray:
        return run(ids, np.zeros(empty, np.float32))[0][0]

    def writes() -> None:
        new, past = bos, np.zeros(empty, np.float32)
        for _ in range(count):
            logits, past = run([new], past)
            new = int(logits[0, -1].argmax())

    return scores, writes


TOOLS = {"slm": ours, "llama.cpp": llama_cpp, "onnxruntime": onnx}


def trimmed() -> float:
    """Megabytes that this process holds, after what was freed has been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident()


def work(tool: str, path: str, config: str, threads: str, bos: str, count: str) -> None:
    """What one worker does: load one form, write a story, and tell what memory that took."""
    torch.set_num_threads(int(threads))
    given = slm.ModelConfig(**json.loads(config)), int(threads), int(bos), int(count)
    with TemporaryDirectory() as folder:  # whatever is there only once is there before
        tokenizer = slm.load_tokenizer()
        tiny = slm.ModelConfig(tokenizer.vocab_size, n_layers=1, n_heads=1, d_model=32)
        slm.save_model(folder, slm.Transformer(tiny), tokenizer)
        ours(Path(folder), tiny, int(threads), int(bos), 20)[1]()
    if tool != "slm":
        __import__(tool.replace(".", "_"))
    before = trimmed()
    _, writes = TOOLS[tool](Path(path), *given)
    held = trimmed() - before
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the most begins anew
    writes()
    serve(lambda: (held, resident(what="VmHWM") - before))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="stories", help="a folder, or a name in the package")
    parser.add_argument("--stories", type=int, default=100, help="to score on")
    parser.add_argument("--new-tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = slm.load_model(options.model)
    config, held_out = model.config, slm.load_stories().validation[: options.stories]
    count = min(options.new_tokens, config.context_length - 1)
    with TemporaryDirectory() as folder:
        folder, files, sizes = Path(folder), {}, {}
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
        given = options.threads, tokenizer.bos_id, count
        forms, memory = {}, {}
        for name, path in files.items():
            with worker(
                __file__, "--worker", name[0], path, json.dumps(asdict(config)), *given
            ) as go:
                memory[name] = go()
            forms[name] = TOOLS[name[0]](path, config, *given)
            weights = path / "model.safetensors" if path.is_dir() else path
            sizes[name] = weights.stat().st_size
        bits = {
            name: bits_per_byte(scores, tokenizer, held_out, config.context_length)
            for name, (scores, _) in forms.items()
        }

        def timed(writes: Writes) -> Callable[[], float]:
            def run() -> float:
                start = time.perf_counter()
                writes()
                return time.perf_counter() - start

            return run

        runs = {name: timed(writes) for name, (_, writes) in forms.items()}
        seconds = in_turns(runs, options.rounds)
    base, rows = next(iter(forms)), []
    speed = {name: count / median(seconds[name]) for name in forms}
    for name in forms:
        change = f"{bits[name] / bits[base] - 1:+.2%}"
        size = f"{sizes[name] / 1e6:.2f}", f"{sizes[name] / sizes[base]:.1%}"
        held = (f"{megabytes:.0f}" for megabytes in memory[name])
        times = f"{speed[name]:,.0f}", f"{speed[name] / speed[base]:.2f}"
        rows.append((", ".join(name), *size, *held, f"{bits[name]:.4f}", change, *times))
    print(machine("llama-cpp-python", "onnxruntime", threads=options.threads), "\n")
    header = (
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
    print(table(header, rows))


if __name__ == "__main__":
    work(*sys.argv[2:]) if sys.argv[1:2] == ["--worker"] else main()
