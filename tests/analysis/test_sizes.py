import re
from pathlib import Path

import pytest

import slm
from slm.stories.practice import practice_stories


def test_the_size_table_compares_each_model_with_the_first(random_model, tokenizer, tmp_path):
    model = random_model(context_length=256)
    small = slm.quantize(model, 8)
    stories = practice_stories(3)
    table = slm.size_table({"32 bits": model, "8 bits": small}, tokenizer, stories)
    header, first, second = table.splitlines()
    assert "on disk" in header and "tokens/s" in header
    assert len(first) == len(second)
    assert first.startswith("32 bits") and ", 100%" in first and "1.00 times" in first
    score = slm.evaluate(small, tokenizer, stories).bits_per_byte
    base = slm.evaluate(model, tokenizer, stories).bits_per_byte
    assert f"{score:.4f}" in second and f"{score / base - 1:+.2%}" in second
    slm.save_model(tmp_path, small, tokenizer)
    megabytes = Path(tmp_path / "model.safetensors").stat().st_size / 1e6
    on_disk = float(re.search(r"([0-9.]+) MB", second).group(1))
    assert on_disk == pytest.approx(megabytes, abs=0.006)
