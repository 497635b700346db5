import asyncio
import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

uvicorn = pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi_offline")

from slm.serving.api import create_app  # noqa: E402
from slm.serving.connections import SECONDS_OF_SILENCE  # noqa: E402
from slm.serving.server import listen, serve, server_config  # noqa: E402
from slm.settings import ServerLimits  # noqa: E402


@contextmanager
def running(model, tokenizer, limits):
    """A server with these limits in a thread: its port, and the app."""
    app = create_app(model, tokenizer, limits=limits)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(server_config(app, limits))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield listener.getsockname()[1], app
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def connected(model, tokenizer, limits):
    """A connection to a server with these limits."""
    with (
        running(model, tokenizer, limits) as (port, _),
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        yield connection


def seconds_until_closed(connection):
    began = time.monotonic()
    connection.settimeout(20)
    answer = b""
    while piece := connection.recv(10_000):
        answer += piece
    return time.monotonic() - began, answer


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHo"], ids=["nothing", "half"])
def test_headers_that_do_not_come_end_the_connection(random_model, tokenizer, sent):
    with connected(random_model(), tokenizer, ServerLimits(header_seconds=0.3)) as connection:
        connection.sendall(sent)
        assert 0.2 < seconds_until_closed(connection)[0] < 5


def test_slow_headers_after_a_first_request_end_the_connection_too(random_model, tokenizer):
    limits = ServerLimits(header_seconds=0.3, idle_seconds=60)
    with connected(random_model(), tokenizer, limits) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" in connection.recv(10_000)
        connection.sendall(b"GET /hea")
        assert seconds_until_closed(connection)[0] < 5


def test_an_idle_connection_is_closed(random_model, tokenizer):
    with connected(random_model(), tokenizer, ServerLimits(idle_seconds=0.3)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        seconds, answer = seconds_until_closed(connection)
        assert b"200 OK" in answer
        assert seconds < 5


def test_a_body_that_does_not_come_gets_a_sentence(random_model, tokenizer):
    limits = ServerLimits(body_seconds=0.3, idle_seconds=0.3)
    with connected(random_model(), tokenizer, limits) as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"
        connection.sendall(head)
        _, answer = seconds_until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not come within 0.3 seconds" in answer


def test_what_is_no_http_gets_a_sentence(random_model, tokenizer):
    with connected(random_model(), tokenizer, ServerLimits()) as connection:
        connection.sendall(b"hello\r\n\r\n")
        _, answer = seconds_until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 400")
        assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["message"].endswith(".")


HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


def test_a_new_connection_takes_the_place_of_the_one_silent_for_longest(random_model, tokenizer):
    limits = ServerLimits(connections=3, header_seconds=60, idle_seconds=60)
    with running(random_model(), tokenizer, limits) as (port, _), ExitStack() as stack:

        def connect():
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))

        asked_before = connect()
        never_asked = connect()
        begun = connect()
        begun.sendall(b"GET /hea")
        time.sleep(0.2)
        asked_before.sendall(HEALTH)
        assert b"200 OK" in asked_before.recv(10_000)
        time.sleep(SECONDS_OF_SILENCE + 0.2)
        newcomer = connect()
        newcomer.sendall(HEALTH)
        assert b"200 OK" in newcomer.recv(10_000)
        assert never_asked.recv(10_000) == b""
        begun.sendall(b"lth HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" in begun.recv(10_000)


def test_where_all_connections_are_at_work_a_new_one_is_answered_503(
    random_model, tokenizer, monkeypatch
):
    openai = pytest.importorskip("openai")
    monkeypatch.setattr(tokenizer, "eot_id", -1)  # stories never end by themselves
    limits = ServerLimits(connections=2, tokens=10**7)
    body = json.dumps({"max_tokens": 10**6}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with running(random_model(), tokenizer, limits) as (port, app):
        with ExitStack() as stack:
            for count in (1, 2):
                working = socket.create_connection(("127.0.0.1", port), timeout=30)
                stack.enter_context(working).sendall(request)
                wait_for(lambda count=count: app.state.batcher.busy == count)
            time.sleep(SECONDS_OF_SILENCE + 0.2)  # they wait for their stories, and are not silent
            with pytest.raises(openai.InternalServerError) as caught:
                client = openai.OpenAI(
                    base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
                )
                client.completions.create(model="stories", prompt="a")
            assert caught.value.status_code == 503
            assert caught.value.type == "server_error"
            assert caught.value.response.headers["retry-after"] == "1"
            assert "try again" in caught.value.message
        wait_for(lambda: app.state.batcher.busy == 0)
        answer = httpx.get(f"http://127.0.0.1:{port}/health", timeout=30)
        assert answer.status_code == 200


def test_no_more_connections_stay_open_than_may_be_however_many_come(random_model, tokenizer):
    limits = ServerLimits(connections=10, header_seconds=60)
    with running(random_model(), tokenizer, limits) as (port, _), ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        time.sleep(SECONDS_OF_SILENCE + 0.2)
        for _ in range(20):
            answer = httpx.get(f"http://127.0.0.1:{port}/health", timeout=30)
            assert answer.status_code == 200


def wait_for(done):
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def test_a_client_that_never_reads_is_paused_and_then_given_up(
    random_model, tokenizer, monkeypatch
):
    monkeypatch.setattr(tokenizer, "eot_id", -1)  # its stories never end by themselves
    limits = ServerLimits(read_seconds=0.5, unread=64, tokens=10**7)
    with running(random_model(), tokenizer, limits) as (port, app):
        asked = {"max_tokens": 10**6, "n": 4, "logprobs": 20, "stream": True}
        body = json.dumps(asked).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", port))
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            most, end = 0, time.monotonic() + 30
            began = False
            while not began or app.state.batcher.busy:
                assert time.monotonic() < end
                sequences = [
                    *app.state.batcher._scheduler.running,
                    *app.state.batcher._scheduler.waiting,
                ]
                began = began or bool(sequences)
                most = max([most, *(s.written - s.read for s in sequences)])
                time.sleep(0.01)
    assert 64 <= most <= 65


def test_a_slow_reader_gets_the_whole_story(random_model, tokenizer):
    asked = {"prompt": "Once", "max_tokens": 300, "seed": 1, "temperature": 2, "min_p": 0, "n": 3}
    limits = ServerLimits(unread=4)  # so that every story pauses again and again
    with running(random_model(), tokenizer, limits) as (port, _):
        url = f"http://127.0.0.1:{port}/v1/completions"
        whole = httpx.post(url, json=asked, timeout=60).json()
        texts = ["", "", ""]
        with httpx.stream("POST", url, json=asked | {"stream": True}, timeout=60) as answer:
            for number, line in enumerate(answer.iter_lines()):
                if line.startswith("data: {"):
                    [choice] = json.loads(line[6:])["choices"]
                    texts[choice["index"]] += choice["text"]
                if number % 20 == 0:
                    time.sleep(0.005)
    assert texts == [choice["text"] for choice in whole["choices"]]


def test_a_small_request_is_served_beside_a_large_one(random_model, tokenizer, monkeypatch):
    """The large one alone would hold all rows for a minute and more."""
    monkeypatch.setattr(tokenizer, "eot_id", -1)
    limits = ServerLimits(stories=8, waiting=8, tokens=10**7)

    async def both(port, app):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            large = asyncio.create_task(
                client.post("/v1/completions", json={"max_tokens": 10**6, "n": 8})
            )
            while app.state.batcher.busy < 8:
                await asyncio.sleep(0.01)
            small = await client.post("/v1/completions", json={"max_tokens": 20, "n": 3})
            busy = app.state.batcher.busy
            large.cancel()
            return small, busy

    with running(random_model(), tokenizer, limits) as (port, app):
        small, busy = asyncio.run(both(port, app))
    assert small.status_code == 200
    assert [c["finish_reason"] for c in small.json()["choices"]] == ["length"] * 3
    assert busy >= 8  # the large one still goes on


@pytest.mark.parametrize("stream", [False, True])
def test_an_unexpected_error_is_logged_once(
    random_model, tokenizer, monkeypatch, caplog, capfd, stream
):
    def fail(*given):
        raise KeyError

    monkeypatch.setattr("slm.serving.batching.sample", fail)
    with running(random_model(), tokenizer, ServerLimits()) as (port, _):
        url = f"http://127.0.0.1:{port}/v1/completions"
        answer = httpx.post(url, json={"stream": stream}, timeout=30)
    assert "An unexpected error happened" in answer.text
    assert caplog.text.count("Traceback") == 1
    assert "Traceback" not in capfd.readouterr().err  # uvicorn has handlers of its own


def test_a_busy_port_is_said_before_anything_else(random_model, tokenizer, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"Port {port} of 127.0.0.1 cannot be used"):
            serve(random_model(), tokenizer, port=port)
    assert "Stories at" not in capsys.readouterr().out
