"""How many users can one server bear? Total tokens per second of 1 and of 32 clients at once, how
long the first token takes, and the server's memory over 2,000 requests.
Run: python tests/benchmarks/serving.py"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
from common import machine, resident, table

import slm

PROMPT = "Once upon a time"


@contextmanager
def server(model: str, threads: int):
    """A server in a process of its own: its address and its process number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "slm", "serve", model, "--port", str(port)]
    root = str(Path(slm.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{address}/health").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


async def story(client: httpx.AsyncClient, tokens: int, seed: int) -> tuple[float, int]:
    """One story as a stream: seconds until its first token, and how many tokens came."""
    asked = {"prompt": PROMPT, "max_tokens": tokens, "seed": seed, "stream": True}
    asked["stream_options"] = {"include_usage": True}
    began, first, count = time.perf_counter(), None, 0
    async with client.stream("POST", "/v1/completions", json=asked) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter() - began
                if usage := json.loads(line[6:])["usage"]:
                    count = usage["completion_tokens"]
    return first, count


async def load(address: str, clients: int, each: int, tokens: int) -> tuple[float, list[float]]:
    """Tokens per second of some clients together, who each ask for `each` stories, one after the
    other; and how long their first tokens took."""
    limits = httpx.Limits(max_connections=clients)

    async def user(client: httpx.AsyncClient, number: int) -> list[tuple[float, int]]:
        return [await story(client, tokens, number * each + i) for i in range(each)]

    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        began = time.perf_counter()
        told = await asyncio.gather(*(user(client, number) for number in range(clients)))
        seconds = time.perf_counter() - began
    stories = [story for some in told for story in some]
    return sum(count for _, count in stories) / seconds, [first for first, _ in stories]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="stories", help="a folder, or a name in the package")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=150, help="of each story at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--requests", type=int, default=2000, help="for the memory; 0: leave it out"
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with server(options.model, options.threads) as (address, pid):
        asyncio.run(load(address, 2, 2, 20))  # to warm up
        rows, speeds = [], {1: [], options.clients: []}
        firsts = {1: [], options.clients: []}
        for _ in range(options.rounds):
            for clients, each in ((1, 4), (options.clients, 2)):
                speed, waits = asyncio.run(load(address, clients, each, options.new_tokens))
                speeds[clients].append(speed)
                firsts[clients] += waits
        for clients, found in speeds.items():
            times = f"{median(found) / median(speeds[1]):.1f}"
            waits = f"{1000 * median(firsts[clients]):,.0f}", f"{1000 * max(firsts[clients]):,.0f}"
            rows.append((clients, f"{median(found):,.0f}", times, *waits))
        print(machine("fastapi", "uvicorn", threads=options.threads), "\n")
        header = ("clients", "tokens/s in all", "times one", "first token, ms", "... at most")
        print(table(header, rows))
        if options.requests:
            memory = []
            for _ in range(4):
                asyncio.run(load(address, 32, -(-options.requests // 128), 8))
                memory.append(f"{resident(pid):,.0f}")
            each = -(-options.requests // 128) * 32
            print(f"\nMB in memory after each {each:,} requests: {', '.join(memory)}")


if __name__ == "__main__":
    main()
