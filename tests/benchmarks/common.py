"""What the benchmarks share: the machine in a line, processes that take turns, and a table."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT))  # slm is found from a clone, without an installation


def machine(*packages: str, threads: int | None = None) -> str:
    """The processor and what of it is used, then the versions of Python, torch and `packages`."""
    import torch

    from slm.hardware.precision import pick_precision

    cores = f"{threads or torch.get_num_threads()} of {os.cpu_count()} cores used"
    native = "native" if pick_precision("auto", "cpu") == torch.bfloat16 else "not native"
    capability = torch.backends.cpu.get_cpu_capability()
    hardware = [processor_name(), cores, capability, f"bfloat16 {native}"]
    versions = [f"Python {platform.python_version()}"]
    for package in ("torch", *packages):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    return f"{', '.join(hardware)}; {', '.join(versions)}"


def processor_name() -> str:
    """What the processor is called."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.check_output(command, text=True).strip()
    return platform.processor() or platform.machine()


def in_turns(
    candidates: dict[str, Callable[[], Any]], rounds: int, *, warm_ups: int = 1
) -> dict[str, list[Any]]:
    """What each candidate gives in each of the rounds, called A B A B ...: a machine that is slower
    for a while is so for all of them. Before that come rounds to warm up, which are dropped."""
    results = {name: [] for name in candidates}
    for _ in range(warm_ups + rounds):
        for name, run in candidates.items():
            results[name].append(run())
    return {name: given[warm_ups:] for name, given in results.items()}


@contextmanager
def worker(*arguments: object, **environment: str) -> Iterator[Callable[..., Any]]:
    """Start Python with these arguments as a process of its own, which calls `serve`. Given is a
    function that has the worker run once and waits for its answer; meanwhile all others sleep."""
    command = [sys.executable, *map(str, arguments)]
    with subprocess.Popen(
        command,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:

        def answer() -> Any:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"The worker {command} ended: its own message says why.")
            return json.loads(line)

        def go(*values: object) -> Any:
            process.stdin.write(json.dumps(values) + "\n")
            process.stdin.flush()
            return answer()

        answer()  # it is ready
        yield go


def serve(run: Callable[..., Any]) -> None:
    """In a worker: say that it is ready, then call `run` whenever asked, and answer what it gives.
    Whatever else is printed meanwhile goes to stderr."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(*json.loads(line))), file=answers, flush=True)


def resident(pid: int | str = "self", what: str = "VmRSS") -> float:
    """Megabytes that a process holds in memory, or with "VmHWM" at most held, on Linux."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith(what)) / 1000


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Aligned text that is Markdown too: the first column to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * width for width in widths]
    for column in range(1, len(widths)):
        rule[column] = rule[column][1:] + ":"  # Markdown's sign for a column to the right
    lines = []
    for row in (cells[0], rule, *cells[1:]):
        aligned = [row[0].ljust(widths[0])]
        for cell, width in zip(row[1:], widths[1:], strict=True):
            aligned.append(cell.rjust(width))
        lines.append(f"| {' | '.join(aligned)} |")
    return "\n".join(lines)
