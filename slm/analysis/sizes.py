"""What a model takes on disk and in memory, and what it gives for that."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from slm.checkpoint.saving import save_model
from slm.evaluation import evaluate
from slm.generation.decoder import IncrementalDecoder
from slm.generation.text_generation import generate_ids
from slm.model.transformer import Transformer
from slm.settings import SamplingConfig
from slm.tokenizer.byte_pair import Tokenizer

HEADER = ("", "on disk", "in memory", "bits per byte", "", "tokens/s", "")


@dataclass(frozen=True)
class _Size:
    """What one model takes and gives."""

    disk_megabytes: float
    memory_megabytes: float
    bits_per_byte: float
    tokens_per_second: float


def size_table(models: dict[str, Transformer], tokenizer: Tokenizer, stories: Sequence[str]) -> str:
    """Compare the size, quality and speed of models, as a table to print.

    It has megabytes on disk and in memory, bits per byte on `stories`, and tokens per second of one
    story, each compared with the first model's. Measuring takes some seconds per model.
    """
    sizes = {name: _measure(model, tokenizer, stories) for name, model in models.items()}
    first = next(iter(sizes.values()))
    rows = [HEADER]
    for name, size in sizes.items():
        disk_share = size.disk_megabytes / first.disk_megabytes
        change = size.bits_per_byte / first.bits_per_byte - 1
        speed_up = size.tokens_per_second / first.tokens_per_second
        rows.append(
            (
                name,
                f"{size.disk_megabytes:.2f} MB, {disk_share:.0%}",
                f"{size.memory_megabytes:.2f} MB",
                f"{size.bits_per_byte:.4f}",
                f"{change:+.2%}",
                f"{size.tokens_per_second:,.0f}",
                f"{speed_up:.2f} times",
            )
        )
    return _align(rows)


def _measure(model: Transformer, tokenizer: Tokenizer, stories: Sequence[str]) -> _Size:
    with TemporaryDirectory() as folder:
        save_model(folder, model, tokenizer)
        disk_bytes = (Path(folder) / "model.safetensors").stat().st_size
    memory_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    score = evaluate(model, tokenizer, stories)
    tokens_per_second = _measure_speed(model, tokenizer)
    return _Size(disk_bytes / 1e6, memory_bytes / 1e6, score.bits_per_byte, tokens_per_second)


def _measure_speed(model: Transformer, tokenizer: Tokenizer, new_tokens: int = 200) -> float:
    """Tokens a second of one story, greedy: the best of three."""
    sampling = SamplingConfig(max_new_tokens=new_tokens, temperature=0)
    prompts = [[tokenizer.bos_id]]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        decoder = IncrementalDecoder(model)
        list(generate_ids(decoder, prompts, sampling, end_ids=()))  # no token ends it early
        seconds.append(time.perf_counter() - start)
    return new_tokens / min(seconds)


def _align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join(cells))
    return "\n".join(lines)
