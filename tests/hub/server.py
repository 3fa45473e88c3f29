"""A Hugging Face hub on the loopback: repositories in memory, with faults on request."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["COMMIT", "OLDER", "Fault", "HubServer", "Repository", "git_digest", "serve"]

COMMIT, OLDER = "c0ffee" * 6 + "c0ff", "01de" * 10


def git_digest(data: bytes) -> str:
    """Return the SHA-1 that git has of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the next requests for a file.

    Attributes
    ----------
    status : int
        Sent instead of the file, unless 0.
    cut : int
        The connection is closed after so many bytes, unless negative.
    no_range : bool
        The whole file is sent whatever range was requested.
    change : callable
        Changes the bytes that are sent.
    redirect : str
        Address of another server to get the file from.
    range_from : int
        Added to the position that the answer states.
    """

    status: int = 0
    cut: int = -1
    no_range: bool = False
    change: Callable[[bytes], bytes] | None = None
    redirect: str = ""
    range_from: int = 0


@dataclass
class Repository:
    """Files of a repository by revision.

    Attributes
    ----------
    files : dict of str to bytes
        Those of the branch main.
    commit : str
    older : dict of str to bytes
        Those of the tag v1.
    gated, private : bool
    large : int
        Files from this size on are stored as large files, under their SHA-256.
    """

    files: dict[str, bytes]
    commit: str = COMMIT
    older: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    large: int = 256

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return commit and files of a revision."""
        if revision in ("main", self.commit):
            return self.commit, self.files
        return (OLDER, self.older) if revision in ("v1", OLDER, "refs/pr/1") and self.older else None


class HubServer(ThreadingHTTPServer):
    """The server; its address is `url`.

    Attributes
    ----------
    repositories : dict of str to Repository
    faults : dict of str to list of Fault
        By file name; each is used once, the first first.
    requests : list of (str, str, dict)
        Method, path and headers of every request.
    token : str
        The only valid one.
    edit : callable
        Changes the list of files before it is sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        self.token = "hf_secretsecretsecret"
        self.edit: Callable[[dict[str, Any]], Any] = lambda answer: answer
        self._connections: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def gets(self, name: str) -> list[Mapping[str, str]]:
        """Return the headers of the requests for the bytes of a file."""
        return [headers for method, path, headers in self.requests if method == "GET" and path.endswith(f"/{name}")]

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    def close_connections(self) -> None:
        """End what clients keep open, so that they do not take the next server at this port for this one."""
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that close the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, dict(self.headers)))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            revision = "/".join(parts[5:]) if parts[4:5] == ["revision"] else "main"
            found = self._found("/".join(parts[2:4]), revision)
            if found is not None:
                self._send(200, json.dumps(self.server.edit(_listing("/".join(parts[2:4]), *found))).encode())
            return
        repository, rest = "/".join(parts[:2]), parts[3:]
        revision = next((try_ for count in (1, 3) if self._exists(repository, try_ := "/".join(rest[:count]))), rest[0])
        found = self._found(repository, revision)
        if found is not None:
            self._send_file(*found, path.split(f"/resolve/{revision}/", 1)[1])

    def _exists(self, repository: str, revision: str) -> bool:
        known = self.server.repositories.get(repository)
        return known is not None and known.at(revision) is not None

    def _found(self, name: str, revision: str) -> tuple[str, dict[str, bytes], int] | None:
        repository = self.server.repositories.get(name)
        token = self.headers.get("Authorization")
        allowed = token == f"Bearer {self.server.token}"
        if token is not None and not allowed:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and not allowed):
            self._refuse(404 if allowed else 401, "RepoNotFound", "Repository not found")
        elif repository.gated and not allowed and "/resolve/" in self.path:
            self._refuse(401, "GatedRepo", "Access to this model is restricted")
        elif repository.at(revision) is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return (*repository.at(revision), repository.large)  # type: ignore[misc]
        return None

    def _send_file(self, commit: str, files: Mapping[str, bytes], large: int, name: str) -> None:
        if name not in files:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        data = files[name]
        etag = hashlib.sha256(data).hexdigest() if len(data) >= large else git_digest(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if self.command == "HEAD":
            linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            self._send(200, b"", {**headers, **linked, "Content-Length": str(len(data))})
            return
        waiting = self.server.faults.get(name, [])
        fault = waiting.pop(0) if waiting else Fault()
        if fault.redirect:
            self._send(302, b"", {"Location": fault.redirect + self.path})
            return
        if fault.status:
            self._refuse(fault.status, "", "fault")
            return
        start = 0
        span = self.headers.get("Range")
        if span is not None and not fault.no_range:
            start = int(span.removeprefix("bytes=").rstrip("-"))
            stated = start + fault.range_from
            headers["Content-Range"] = f"bytes {stated}-{len(data) - 1}/{len(data)}"
        sent = data[start:] if fault.change is None else fault.change(data[start:])
        self._send(206 if start else 200, sent, headers, fault.cut)

    def _refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        coded = {"X-Error-Code": code} if code else {}
        self._send(status, b"{}", {**coded, "X-Error-Message": message, **(headers or {})})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None, cut: int = -1) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        if cut >= 0:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(data if cut < 0 else data[:cut])


def _listing(name: str, commit: str, files: Mapping[str, bytes], large: int) -> dict[str, Any]:
    """Return what the hub says of a repository."""
    siblings = []
    for path, data in files.items():
        entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_digest(data)}
        if len(data) >= large:
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 135}
        siblings.append(entry)
    return {"id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "siblings": siblings}


@contextmanager
def serve() -> Iterator[HubServer]:
    """Run a server in a thread."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.close_connections()
        server.server_close()
