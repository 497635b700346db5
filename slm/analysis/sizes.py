"""What a model takes on disk and in memory, and what it gives for that."""

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from slm.checkpoint.saving import save_model
from slm.evaluation import evaluate
from slm.generation.text_generation import generate_tokens
from slm.model.transformer import Transformer
from slm.settings import SamplingConfig
from slm.tokenizer.byte_pair import Tokenizer


def size_table(models: dict[str, Transformer], tokenizer: Tokenizer, stories: Sequence[str]) -> str:
    """What each of some models by name takes and gives, as a table to print: megabytes on disk and
    in memory, bits per byte on stories, and tokens a second of one story, each beside those of the
    first. It takes some seconds for each."""
    head = ("", "on disk", "in memory", "bits per byte", "", "tokens/s", "")
    rows, base = [head], None
    for name, model in models.items():
        with TemporaryDirectory() as folder:
            save_model(folder, model, tokenizer)
            size = (Path(folder) / "model.safetensors").stat().st_size / 1e6
        memory = sum(value.nbytes for value in model.state_dict().values()) / 1e6
        bits, speed = evaluate(model, tokenizer, stories).bits_per_byte, _speed(model, tokenizer)
        base = base or (size, bits, speed)
        change, times = f"{bits / base[1] - 1:+.2%}", f"{speed / base[2]:.2f} times"
        shares = (f"{size:.2f} MB, {size / base[0]:.0%}", f"{memory:.2f} MB")
        rows.append((name, *shares, f"{bits:.4f}", change, f"{speed:,.0f}", times))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]))
    return "\n".join(lines)


def _speed(model: Transformer, tokenizer: Tokenizer, new_tokens: int = 200) -> float:
    """Tokens a second of one story, the likeliest each time: the best of three."""
    sampling, seconds = SamplingConfig(max_new_tokens=new_tokens, temperature=0), []
    for _ in range(3):
        start = time.perf_counter()
        list(generate_tokens(model, torch.tensor([[tokenizer.bos_id]]), sampling, eot_id=-1))
        seconds.append(time.perf_counter() - start)
    return new_tokens / min(seconds)
