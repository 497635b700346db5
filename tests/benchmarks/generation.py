"""How fast does a model write? Tokens per second, of one story and of 16 at once, from the same
weights by slm, transformers and llama.cpp. Run: python tests/benchmarks/generation.py"""

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from itertools import islice
from statistics import median
from tempfile import TemporaryDirectory

import torch
from common import in_turns, machine, serve, table, worker

import slm
from slm.generation.decoder import IncrementalDecoder
from slm.generation.text_generation import generate_ids
from slm.tokenizer.byte_pair import Tokenizer

OURS = "slm"
THEIRS = "transformers"
GGUF_TYPES = {"llama.cpp F32": "f32", "llama.cpp Q8_0": "q8_0"}
PROMPT = "Once upon a time"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a folder saved by slm (default: random weights)")
    parser.add_argument("--new-tokens", type=int, default=200, help="per story (default: 200)")
    parser.add_argument("--stories", type=int, default=16, help="written at once (default: 16)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def save_random_model(folder: str) -> None:
    """A model of the default size of which every matrix does something, unlike an untrained one's:
    so that different programs write the same only if they compute the same."""
    model = slm.Transformer(slm.ModelConfig())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.1, generator=generator)
    slm.save_model(folder, model, slm.load_tokenizer())


def prompt_ids(tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.eot_id, *tokenizer.encode(PROMPT)]


def ours(folder: str, new_tokens: int) -> Callable[[int], list[int]]:
    """Greedy, as `slm.generate(temperature=0)`; an end of text that is no id stops nothing."""
    model, tokenizer = slm.load_model(folder)
    sampling = slm.SamplingConfig(max_new_tokens=new_tokens, temperature=0)

    def write(rows: int) -> list[int]:
        prompt = prompt_ids(tokenizer)
        steps = generate_ids(IncrementalDecoder(model), [prompt], sampling, (), n=rows)
        return [new_ids[0] for new_ids in steps]

    return write


def theirs(folder: str, new_tokens: int) -> Callable[[int], list[int]]:
    """Greedy with transformers' key-value cache; without an `eos_token_id` nothing stops early."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder).eval()
    tokenizer = slm.load_tokenizer(folder)
    model.generation_config.eos_token_id = None
    settings = {"max_new_tokens": new_tokens, "do_sample": False}

    def write(rows: int) -> list[int]:
        ids = torch.tensor([prompt_ids(tokenizer)] * rows)
        every = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        return every[0, ids.shape[1] :].tolist()

    return write


def llama_cpp(folder: str, new_tokens: int, kind: str, threads: int) -> Callable[[int], list[int]]:
    """Greedy by llama-cpp-python, whose loop over tokens looks for no end. It has no simple call
    for several stories at once: they come one after the other."""
    from llama_cpp import Llama

    model, tokenizer = slm.load_model(folder)
    with TemporaryDirectory() as gguf_folder:
        file = slm.export_gguf(folder, f"{gguf_folder}/model.gguf", kind)
        llama = Llama(
            str(file),
            n_ctx=model.config.context_length,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def write(rows: int) -> list[int]:
        for _ in range(rows):
            llama.reset()
            ids = list(islice(llama.generate(prompt_ids(tokenizer), temp=0.0), new_tokens))
        return ids

    return write


def work(options: argparse.Namespace) -> None:
    """What one worker does: load the model, then write as often as asked."""
    torch.set_num_threads(options.threads)
    if options.worker == OURS:
        write = ours(options.model, options.new_tokens)
    elif options.worker == THEIRS:
        write = theirs(options.model, options.new_tokens)
    else:
        kind = GGUF_TYPES[options.worker]
        write = llama_cpp(options.model, options.new_tokens, kind, options.threads)

    def timed(rows: int) -> tuple[float, list[int]]:
        start = time.perf_counter()
        ids = write(rows)
        seconds = time.perf_counter() - start
        if len(ids) != options.new_tokens:
            raise RuntimeError(f"{options.worker} wrote {len(ids)} tokens: it stopped early.")
        return seconds, ids

    serve(timed)


def same_beginning(a: list[int], b: list[int]) -> int:
    """How many ids come before the first that differs."""
    for place, (one, other) in enumerate(zip(a, b, strict=True)):
        if one != other:
            return place
    return len(a)


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    if options.worker:
        return work(options)
    with ExitStack() as stack:
        if not options.model:
            options.model = stack.enter_context(TemporaryDirectory())
            save_random_model(options.model)
        model, tokenizer = slm.load_model(options.model)
        room = model.config.context_length - len(prompt_ids(tokenizer))
        options.new_tokens = min(options.new_tokens, room)  # none begins to forget
        given = [__file__]
        for name in ("model", "new_tokens", "threads"):
            given += [f"--{name.replace('_', '-')}", getattr(options, name)]
        names = [OURS, THEIRS]
        if find_spec("llama_cpp") and find_spec("gguf"):
            names += GGUF_TYPES
        environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(options.threads)}
        workers = {
            name: stack.enter_context(worker(*given, "--worker", name, **environment))
            for name in names
        }
        one = in_turns({name: partial(workers[name], 1) for name in names}, options.rounds)
        runs = {name: partial(workers[name], options.stories) for name in names}
        many = in_turns(runs, options.rounds)

    def speed(results: dict[str, list], name: str, stories: int) -> float:
        seconds = median(seconds for seconds, _ in results[name])
        return stories * options.new_tokens / seconds

    print(machine("transformers", "llama-cpp-python", threads=options.threads))
    print(
        f"{sum(weight.numel() for weight in model.parameters()):,} parameters in float32, "
        f"{options.new_tokens} new tokens a story, the likeliest each time; median of "
        f"{options.rounds} turns.\nllama-cpp-python writes several stories one after the other. "
        "Same tokens: how many come before\nthe first that is not slm's, a check that all compute "
        "the same.\n"
    )
    rows = []
    for name in (OURS, THEIRS, *GGUF_TYPES):
        if name not in names:
            rows.append((name, "not installed", *["-"] * 4))
            continue
        row = [name]
        for results, stories in ((one, 1), (many, options.stories)):
            times = speed(results, OURS, stories) / speed(results, name, stories)
            row += [f"{speed(results, name, stories):,.0f}", f"{times:.2f}"]
        _, our_ids = one[OURS][0]
        _, ids = one[name][0]
        rows.append([*row, same_beginning(our_ids, ids)])
    stories = f"{options.stories} stories, tokens/s"
    header = ("generation", "1 story, tokens/s", "slm is x", stories, "slm is x", "same tokens")
    print(table(header, rows))


if __name__ == "__main__":
    main()
