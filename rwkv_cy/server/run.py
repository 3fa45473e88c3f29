"""Runs a server: socket, signals, a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import uvicorn

from rwkv_cy.errors import StorageError
from rwkv_cy.server.app import make_app
from rwkv_cy.server.service import Service

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Server", "bind", "make_server", "serve"]

#: Seconds that an idle connection stays open, and connections that wait to be accepted.
_KEEP_ALIVE, _BACKLOG = 30, 1024


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens; with port 0, the system chooses a free one.

    Raises
    ------
    StorageError
        If the address is in use, or not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StorageError(f"{host}:{port}: cannot listen there: {reason}; choose --host or --port") from None


def serve(service: Service, listening: socket.socket, grace: float, started: Callable[[], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; then answer the requests in progress, for at most `grace` seconds.

    Parameters
    ----------
    service : Service
    listening : socket.socket
        Closed at the end.
    grace : float
        Seconds.
    started : callable, optional
        Called when requests can come.
    """
    make_server(service, grace, started).run([listening])


def make_server(service: Service, grace: float, started: Callable[[], None] | None = None) -> Server:
    """Return the server that :func:`serve` runs, with the same parameters."""
    config = uvicorn.Config(
        make_app(service),
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(grace)),
        backlog=_BACKLOG,
    )
    return Server(config, service, started)


class Server(uvicorn.Server):
    """The server of uvicorn, except that signals which ended it are not raised again at its end."""

    def __init__(self, config: uvicorn.Config, service: Service, started: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._service = service
        self._on_start = started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals meanwhile, in the main thread."""
        loop = asyncio.get_running_loop()
        handled = []
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.handle_exit, number, None)
                handled.append(number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started and self._on_start is not None:
            self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin a graceful end; at a second signal, an immediate one."""
        self._service.closing = True
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
