"""The server as a process: it takes a port, says where it is, and answers until it is stopped."""

import os
import socket
import sys
from collections.abc import Sequence
from functools import partial

import uvicorn

from slm.model.transformer import Transformer
from slm.serving.api import create_app
from slm.serving.connections import ClientConnection
from slm.settings import ServerLimits
from slm.tokenizer.byte_pair import Tokenizer
from slm.utils.settings_checks import LARGEST_PORT, check_number, show_value

# The thread that decodes gives Python's lock away at every operation of PyTorch's, and would wait
# for it up to 5 ms each time while the event loop is at work: hundreds of milliseconds per token.
SWITCH_SECONDS = 0.0002
WAITING_CONNECTIONS = 2048  # that the operating system keeps until they are accepted


def serve(
    model: Transformer,
    tokenizer: Tokenizer,
    name: str = "stories",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: ServerLimits | None = None,
    api_key: str | None = None,
    origins: Sequence[str] = (),
) -> None:
    """Serve a model over HTTP until the process is asked to end; what is being written is finished
    then. See `create_app` for `api_key` and `origins`. Raises OSError where the port is taken."""
    limits = limits or ServerLimits()
    app = create_app(model, tokenizer, name, limits=limits, api_key=api_key, origins=origins)
    listener = listen(host, port)
    sys.setswitchinterval(SWITCH_SECONDS)
    address = f"http://{_in_url(host)}:{listener.getsockname()[1]}"
    print(f"Stories at {address}/v1/completions; try it at {address}/docs", flush=True)
    uvicorn.Server(server_config(app, limits)).run(sockets=[listener])


def server_config(app, limits: ServerLimits) -> uvicorn.Config:
    """How uvicorn runs the app: warnings alone are logged, and connections have limits."""
    return uvicorn.Config(
        app,
        http=partial(ClientConnection, limits=limits),
        ws="none",  # a connection that becomes a web socket would have no limits
        timeout_keep_alive=limits.idle_seconds,
        log_level="warning",
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections at a port; 0: any that is free. Raises OSError, with the
    mend, where the port is taken or the host is not this computer's; ValueError for what is no
    host or no port."""
    no_host = ValueError(f"{show_value(host)} is no host: give an address, as 127.0.0.1.")
    if not isinstance(host, str) or not host:  # an empty one would be all addresses there are
        raise no_host
    check_number("port", port, whole=True, low=0, high=LARGEST_PORT)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=WAITING_CONNECTIONS)
    except (TypeError, UnicodeError):  # characters that no host's name has
        raise no_host from None
    except socket.gaierror as error:
        message = f"{host} cannot be found ({error.strerror}): give an address, as 127.0.0.1."
        raise OSError(message) from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        message = f"Port {port} of {host} cannot be used ({reason}): choose another one."
        raise OSError(message) from None


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
