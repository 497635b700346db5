from pathlib import Path

import psutil
import pytest

from slm.utils import memory

GIGABYTE = 10**9


def in_container(monkeypatch, folder: Path, files: dict[str, str]) -> int:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="ascii")
    monkeypatch.setattr(memory, "Path", lambda name: folder)
    return memory.available_memory()


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (("memory.max", "memory.current", "memory.stat"), ""),
        (
            (
                "memory/memory.limit_in_bytes",
                "memory/memory.usage_in_bytes",
                "memory/memory.stat",
            ),
            "total_",
        ),
    ],
)
def test_what_a_container_keeps_of_files_counts_as_free(monkeypatch, tmp_path, names, prefix):
    statistics = f"anon 5\n{prefix}inactive_file 1000000000\n{prefix}active_file 500000000\n"
    contents = (f"{2 * GIGABYTE}\n", f"{GIGABYTE + 8 * 10**8}\n", statistics)
    free = in_container(monkeypatch, tmp_path, dict(zip(names, contents, strict=True)))
    assert free == 17 * 10**8  # less than any machine has that runs these tests


def test_without_a_limit_all_of_the_machine_is_free(monkeypatch, tmp_path):
    free = in_container(monkeypatch, tmp_path, {"memory.max": "max\n"})
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)
