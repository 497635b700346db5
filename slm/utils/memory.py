"""How much memory is free."""

from pathlib import Path

import psutil
import torch

USABLE = 0.8  # share of the free memory that is planned for: estimates are rough


def available_memory(device: str = "cpu") -> int | None:
    """Bytes that this process may still take on a device; None where PyTorch does not say (MPS)."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
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
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            allowed = int((groups / limit).read_text(encoding="ascii"))
            used = int((groups / usage).read_text(encoding="ascii"))
            return allowed - used
        except (OSError, ValueError):  # there is none, or "max"
            continue
    return None
