"""Does the server serve honest clients while others misuse it? Four clients ask for stories, first
alone, then beside idle connections, slow writers, readers that never read, many long prompts,
bodies of 50 MB, and clients that go away at random. Reported are the honest clients' times, all
statuses, and memory.
Run: python tests/robustness/abuse_server.py --seconds 600"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx

ROOT = Path(__file__).resolve().parents[2]
SERVER = """
import sys
import slm
from slm.serving.server import serve
serve(*slm.load_model("stories"), port=int(sys.argv[1]))
"""
HONEST = {"prompt": "Once upon a time", "max_tokens": 60}
GREEDY = {"prompt": "One day", "n": 32, "max_tokens": 2000, "logprobs": 20, "stream": True}
SCORING = {"prompt": ["a dragon " * 2000] * 32, "max_tokens": 1, "logprobs": 5, "echo": True}
SECONDS_BETWEEN_READINGS = 0.5  # of the memory
DISCONNECTS = (ConnectionError, OSError, asyncio.IncompleteReadError)


@dataclass
class Record:
    """What was seen."""

    seconds: list[float] = field(default_factory=list)  # of each honest story
    statuses: Counter = field(default_factory=Counter)  # of all answers, by who asked
    memory: list[float] = field(default_factory=list)  # of the server, in MB
    failures: list[str] = field(default_factory=list)  # of honest clients


@contextmanager
def server():
    """A server in a process of its own: its port and its process number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SERVER, str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_until_healthy(port)
        yield port, process.pid
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def wait_until_healthy(port: int) -> None:
    for _ in range(600):
        with suppress(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
            return
        time.sleep(0.1)
    raise TimeoutError("The server does not start.")


def resident_megabytes(pid: int) -> float:
    """The memory of a process; 0 where the system does not say (only Linux does)."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0.0
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1000


async def honest(port: int, record: Record, seed: int, until: float) -> None:
    """Ask for one story after the other, and note how long each takes."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        while time.monotonic() < until:
            began = time.perf_counter()
            try:
                answer = await client.post("/v1/completions", json=HONEST | {"seed": seed})
            except httpx.TransportError as error:
                record.failures.append(repr(error))
                await asyncio.sleep(0.1)
                continue
            record.seconds.append(time.perf_counter() - began)
            record.statuses["honest", answer.status_code] += 1
            if answer.status_code != 200:
                record.failures.append(answer.text)
                await asyncio.sleep(0.1)


def head(length: int) -> bytes:
    lines = ["POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def note(record: Record, who: str, answer: bytes) -> None:
    if answer.startswith(b"HTTP/1.1 "):
        record.statuses[who, int(answer[9:12])] += 1


async def idle(port: int, record: Record, until: float) -> None:
    """Connect, say nothing, and connect again when that is ended."""
    while time.monotonic() < until:
        with suppress(*DISCONNECTS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(until - time.monotonic(), 0)):
                    note(record, "idle", await reader.read(100))
            writer.close()


async def slow_writer(port: int, record: Record, until: float) -> None:
    """Send a request byte by byte."""
    body = json.dumps(HONEST).encode()
    while time.monotonic() < until:
        with suppress(*DISCONNECTS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for byte in head(len(body)) + body:
                if time.monotonic() > until or reader.at_eof():
                    break
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.5)
            writer.close()


async def never_reads(port: int, record: Record, until: float) -> None:
    """Ask for as much as one may, and read nothing of it."""
    body = json.dumps(GREEDY).encode()
    while time.monotonic() < until:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        with suppress(*DISCONNECTS):
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await loop.sock_sendall(connection, head(len(body)) + body)
            await asyncio.sleep(min(40, max(until - time.monotonic(), 0)))
        connection.close()


async def many_prompts(port: int, record: Record, until: float) -> None:
    """Ask to have long prompts scored, one request after the other."""
    url = f"http://127.0.0.1:{port}/v1/completions"
    async with httpx.AsyncClient(timeout=120) as client:
        while time.monotonic() < until:
            with suppress(httpx.TransportError):
                answer = await client.post(url, json=SCORING)
                record.statuses["many prompts", answer.status_code] += 1
            await asyncio.sleep(0.05)


async def greedy(port: int, record: Record, until: float) -> None:
    """Ask for as much as one may, and read it as fast as it comes."""
    url = f"http://127.0.0.1:{port}/v1/completions"
    async with httpx.AsyncClient(timeout=120) as client:
        while time.monotonic() < until:
            with suppress(httpx.TransportError):
                async with client.stream("POST", url, json=GREEDY) as answer:
                    record.statuses["greedy", answer.status_code] += 1
                    async for _ in answer.aiter_bytes():
                        if time.monotonic() > until:
                            break
            await asyncio.sleep(0.05)


async def large_body(port: int, record: Record, until: float) -> None:
    """Send 50 MB, with and without saying so before."""
    piece = b" " * 1_000_000
    while time.monotonic() < until:
        for announced in (True, False):
            with suppress(*DISCONNECTS):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                length = f"Content-Length: {50 * len(piece)}"
                how = length if announced else "Transfer-Encoding: chunked"
                writer.write(f"POST /v1/completions HTTP/1.1\r\nHost: a\r\n{how}\r\n\r\n".encode())
                for _ in range(50):
                    writer.write(piece if announced else b"%x\r\n" % len(piece) + piece + b"\r\n")
                    await writer.drain()
                note(record, "large body", await asyncio.wait_for(reader.read(100), 10))
                writer.close()
        await asyncio.sleep(0.5)


async def goes_away(port: int, record: Record, chance: random.Random, until: float) -> None:
    """Ask, and go away at a random moment."""
    while time.monotonic() < until:
        asked = GREEDY | {"n": chance.randint(1, 8), "stream": chance.random() < 0.5}
        body = json.dumps(asked).encode()
        request = head(len(body)) + body
        with suppress(*DISCONNECTS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request[: chance.randint(1, 2 * len(request))])
            with suppress(TimeoutError):
                first = await asyncio.wait_for(reader.read(100), chance.uniform(0, 2))
                note(record, "goes away", first)
            writer.transport.abort()
        await asyncio.sleep(chance.uniform(0, 0.1))


async def watch_memory(pid: int, record: Record, until: float) -> None:
    while time.monotonic() < until:
        record.memory.append(resident_megabytes(pid))
        await asyncio.sleep(SECONDS_BETWEEN_READINGS)


async def measure(port: int, pid: int, seconds: float, abuse: bool, idle_count: int) -> Record:
    """Four honest clients for some seconds, alone or beside all kinds of abuse."""
    record = Record()
    until = time.monotonic() + seconds
    work = [honest(port, record, seed, until) for seed in range(4)]
    work.append(watch_memory(pid, record, until))
    if abuse:
        work += [idle(port, record, until) for _ in range(idle_count)]
        work += [slow_writer(port, record, until) for _ in range(20)]
        work += [never_reads(port, record, until) for _ in range(4)]
        work += [greedy(port, record, until) for _ in range(2)]
        work += [many_prompts(port, record, until) for _ in range(2)]
        work += [large_body(port, record, until) for _ in range(2)]
        work += [goes_away(port, record, random.Random(seed), until) for seed in range(4)]
    await asyncio.gather(*work)
    return record


def run(seconds: float, idle_count: int = 300) -> tuple[Record, Record]:
    """What four honest clients see alone (for a tenth of the time) and beside abuse."""
    with server() as (port, pid):
        alone = asyncio.run(measure(port, pid, max(seconds / 10, 2), False, 0))
        abused = asyncio.run(measure(port, pid, seconds, True, idle_count))
        health = httpx.get(f"http://127.0.0.1:{port}/health", timeout=30)
        abused.statuses["at the end", health.status_code] += 1
    return alone, abused


def summary(times: list[float]) -> str:
    """Of sorted times: the middle one, the one that 95 % do not exceed, and the longest."""
    if not times:
        return "none"
    percentile = times[int(0.95 * (len(times) - 1))]
    return f"median {median(times):.2f}, 95 % {percentile:.2f}, most {times[-1]:.2f}"


def by_minute(readings: list[float]) -> str:
    """The last of the readings of each minute, and of the time after the last whole one."""
    each = round(60 / SECONDS_BETWEEN_READINGS)
    ends = [readings[start : start + each][-1] for start in range(0, len(readings), each)]
    return ", ".join(f"{megabytes:,.0f}" for megabytes in ends)


def main() -> None:
    """Abuse a server, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--idle", type=int, default=300, help="connections that say nothing")
    options = parser.parse_args()
    for name, record in zip(("alone", "abused"), run(options.seconds, options.idle), strict=True):
        times = sorted(record.seconds)
        print(f"{name}: {len(times)} honest stories, {len(record.failures)} failures")
        print(f"  seconds: {summary(times)}")
        print(f"  MB in memory at the end of each minute: {by_minute(record.memory)}")
        for (who, status), count in sorted(record.statuses.items()):
            print(f"  {who}: {status} x {count}")
        for failure in record.failures[:3]:
            print(f"  failure: {failure}")


if __name__ == "__main__":
    main()
