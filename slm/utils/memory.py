"""How much memory is free."""

from pathlib import Path

import psutil
import torch

USABLE = 0.8  # share of the free memory that is planned for: estimates are rough


def available_memory(device: str = "cpu") -> int | None:
    """Bytes that this process may still take on a device; None where PyTorch does not say (MPS)."""
    if device == "cuda":
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # by PyTorch, for reuse
        return torch.cuda.mem_get_info()[0] + kept
    if device != "cpu":
        return None
    available = psutil.virtual_memory().available
    in_container = _container_memory()
    return available if in_container is None else min(available, in_container)


def _container_memory() -> int | None:
    """Bytes that a container's limit leaves, which psutil does not know; None without a limit.

    On Linux, the limit is in control groups, version 2 or 1.
    """
    groups = Path("/sys/fs/cgroup")
    for limit, usage, statistics in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            allowed = int((groups / limit).read_text(encoding="ascii"))
            taken = int((groups / usage).read_text(encoding="ascii"))
            taken -= _cached_files((groups / statistics).read_text(encoding="ascii"))
            return max(allowed - taken, 0)
        except (OSError, ValueError):  # there is none, or "max"
            continue
    return None


def _cached_files(statistics: str) -> int:
    """Bytes of a container's page cache: they count as taken, but Linux gives them up at need."""
    values = dict(line.split() for line in statistics.splitlines())
    prefix = "total_" if "total_inactive_file" in values else ""  # version 1, with all below it
    return int(values.get(f"{prefix}inactive_file", 0)) + int(values.get(f"{prefix}active_file", 0))
