import io
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from slm.stories.tinystories import fetch, why_unavailable


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)


@pytest.fixture
def serve(monkeypatch):
    """Start a server that gives one answer to everything, as the place where the hub should be."""
    servers = []

    def start(status, body):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_name_server_that_never_answers(monkeypatch):
    never = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: never.wait() and [])
    assert "no answer in 2.5 s" in why_unavailable()  # while the name server is still silent
    never.set()


LOGIN = "is not the hub (a login page of the wifi?)"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b'{"id": "roneneldan/TinyStories"}', ""),
        (503, b"busy", "answered 503 (Service Unavailable)"),
        (200, b"<html>Welcome to our cafe</html>", LOGIN),
        (200, b'{"id": "another"}', LOGIN),
        (200, b"[]", LOGIN),
        (200, b"\xff\xfe", LOGIN),
    ],
)
def test_the_hub_is_asked_first(serve, status, body, said):
    serve(status, body)
    why = why_unavailable()
    assert why == "" if not said else said in why


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_by_wish(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert why_unavailable() == f"{name} is set"


def test_an_endpoint_that_is_no_address(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "huggingface")
    assert "could not reach huggingface (MissingSchema)" in why_unavailable()


class FullDisk(io.StringIO):
    """Where the output goes: nothing can be written any more."""

    def write(self, text):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("output", ["closed", "full"])
def test_stories_are_fetched_also_where_the_progress_bar_cannot_be_drawn(output, monkeypatch):
    monkeypatch.setattr("slm.stories.tinystories.why_unavailable", lambda: "")
    monkeypatch.setattr(
        "slm.stories.tinystories.stream", lambda split: (f"{split} {i}." for i in range(300))
    )
    file = FullDisk() if output == "full" else io.StringIO()
    if output == "closed":
        file.close()
    monkeypatch.setattr("sys.stdout", file)
    raw = fetch(n=20, held_out=10)
    assert (raw.train[0], raw.validation[0]) == ("train 0.", "validation 0.")
    assert (len(raw.train), len(raw.validation)) == (121, 110)
