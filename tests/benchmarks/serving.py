"""How many users can one server bear?

Measured are the tokens per second of one client and of 32 at once, the seconds until their first
token, and the server's memory over 2,000 requests.
Run: python tests/benchmarks/serving.py
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import httpx
from common import ROOT, machine, resident, table

PROMPT = "Once upon a time"
SECONDS_TO_START = 60
STORIES_OF_ONE_CLIENT = 4  # in a round with one client
STORIES_OF_EACH_CLIENT = 2  # in a round with many
MEMORY_CLIENTS = 32
MEMORY_READINGS = 4


@dataclass(frozen=True)
class Story:
    """How one request went."""

    seconds_to_first_token: float
    tokens: int


@dataclass
class Measurements:
    """The results of all rounds with the same number of clients."""

    tokens_per_second: list[float] = field(default_factory=list)  # of all clients, by round
    seconds_to_first_token: list[float] = field(default_factory=list)  # by request


@contextmanager
def running_server(model: str, threads: int) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its address and its process id."""
    port = free_port()
    command = [sys.executable, "-m", "slm", "serve", model, "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(address)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port that no program uses at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until_healthy(address: str) -> None:
    """Return as soon as the server answers. Raises TimeoutError if it never does."""
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        try:
            httpx.get(f"{address}/health").raise_for_status()
            return
        except httpx.TransportError:  # it does not listen yet
            time.sleep(0.1)
    raise TimeoutError("The server does not start.")


async def request_story(client: httpx.AsyncClient, max_tokens: int, seed: int) -> Story:
    """Ask for one story as a stream, and read it to its end."""
    body = {
        "prompt": PROMPT,
        "max_tokens": max_tokens,
        "seed": seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start = time.perf_counter()
    seconds_to_first_token = None
    tokens = 0
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):  # an empty line, or [DONE]
                continue
            if seconds_to_first_token is None:
                seconds_to_first_token = time.perf_counter() - start
            usage = json.loads(line.removeprefix("data: "))["usage"]
            if usage is not None:  # only the last event has it
                tokens = usage["completion_tokens"]
    return Story(seconds_to_first_token, tokens)


async def request_stories(
    client: httpx.AsyncClient, count: int, max_tokens: int, first_seed: int
) -> list[Story]:
    """One client's stories, one after the other."""
    return [await request_story(client, max_tokens, first_seed + i) for i in range(count)]


async def run_clients(
    address: str, clients: int, stories_each: int, max_tokens: int
) -> tuple[list[Story], float]:
    """The stories of some clients at once, and the seconds until all were finished."""
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        start = time.perf_counter()
        work = [
            request_stories(client, stories_each, max_tokens, first_seed=number * stories_each)
            for number in range(clients)
        ]
        by_client = await asyncio.gather(*work)
        seconds = time.perf_counter() - start
    stories = [story for stories in by_client for story in stories]
    return stories, seconds


def measure_round(address: str, clients: int, max_tokens: int, measurements: Measurements) -> None:
    """Add what one round with so many clients gives."""
    stories_each = STORIES_OF_ONE_CLIENT if clients == 1 else STORIES_OF_EACH_CLIENT
    stories, seconds = asyncio.run(run_clients(address, clients, stories_each, max_tokens))
    tokens = sum(story.tokens for story in stories)
    measurements.tokens_per_second.append(tokens / seconds)
    measurements.seconds_to_first_token.extend(story.seconds_to_first_token for story in stories)


def measure_speed(
    address: str, client_counts: tuple[int, ...], rounds: int, max_tokens: int
) -> dict[int, Measurements]:
    """By the number of clients; the numbers take turns, so that a slow minute is one for all."""
    measurements = {clients: Measurements() for clients in client_counts}
    for _ in range(rounds):
        for clients in client_counts:
            measure_round(address, clients, max_tokens, measurements[clients])
    return measurements


def measure_memory(address: str, pid: int, requests: int) -> list[float]:
    """The server's memory in MB, after each of four equal parts of the requests."""
    stories_each = max(round(requests / (MEMORY_CLIENTS * MEMORY_READINGS)), 1)
    readings = []
    for _ in range(MEMORY_READINGS):
        asyncio.run(run_clients(address, MEMORY_CLIENTS, stories_each, max_tokens=8))
        readings.append(resident(pid))
    return readings


def speed_table(measurements: dict[int, Measurements]) -> str:
    """A row for each number of clients."""
    header = ("clients", "tokens/s in all", "times one", "first token, ms", "... at most")
    speed_of_one = median(measurements[1].tokens_per_second)
    rows = []
    for clients, measured in measurements.items():
        speed = median(measured.tokens_per_second)
        waits = measured.seconds_to_first_token
        rows.append(
            (
                clients,
                f"{speed:,.0f}",
                f"{speed / speed_of_one:.1f}",
                f"{1000 * median(waits):,.0f}",
                f"{1000 * max(waits):,.0f}",
            )
        )
    return table(header, rows)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="stories", help="a folder, or a bundled model's name")
    parser.add_argument("--clients", type=int, default=32, help="that ask at the same time")
    parser.add_argument("--new-tokens", type=int, default=150, help="of each story, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2000, help="0: do not measure memory")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Measure, and print the results."""
    options = parse_arguments()
    with running_server(options.model, options.threads) as (address, pid):
        asyncio.run(run_clients(address, clients=2, stories_each=2, max_tokens=20))  # to warm up
        client_counts = (1, options.clients)
        measurements = measure_speed(address, client_counts, options.rounds, options.new_tokens)
        print(machine("fastapi", "uvicorn", threads=options.threads), "\n")
        print(speed_table(measurements))
        if options.requests:
            readings = measure_memory(address, pid, options.requests)
            megabytes = ", ".join(f"{reading:,.0f}" for reading in readings)
            print(
                f"\nMB in memory after each quarter of {options.requests:,} requests: {megabytes}"
            )


if __name__ == "__main__":
    main()
