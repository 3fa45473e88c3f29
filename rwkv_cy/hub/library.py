"""What is used of huggingface_hub: its settings, tokens, requests and errors. No other module imports it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rwkv_cy import __version__
from rwkv_cy.errors import HubError, MissingDependencyError, RWKVError
from rwkv_cy.hub.listing import Listing, RemoteFile
from rwkv_cy.hub_names import HubName
from rwkv_cy.records import dataclass

__all__ = ["Stream", "cache_folder", "endpoint", "is_offline", "list_files", "open_stream"]

_LISTING_SECONDS = 30.0
#: Without a byte for so long, a connection counts as cut.
_READ_SECONDS = 30.0
#: What a broken connection loses at most: the clients deliver whole chunks.
_CHUNK = 64 << 10
#: HTTP statuses that a later request may not meet.
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
#: Base classes of the errors of httpx, requests and Python.
_TRANSPORT_ERRORS = ("TransportError", "RequestException", "ConnectionError")
_LOGIN = "log in with 'hf auth login', or set HF_TOKEN"


@dataclass(frozen=True)
class Stream:
    """Bytes of a file as they arrive.

    Attributes
    ----------
    start : int
        Position of the first byte in the file: the requested one, or 0 if the server sends the whole file.
    chunks : iterator of bytes
        Raises HubError if the connection breaks.
    """

    start: int
    chunks: Iterator[bytes]


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise MissingDependencyError(
            f"models on the Hugging Face hub need the huggingface_hub library ({error}): pip install 'rwkv-cy[hub]', "
            "or pip install huggingface_hub"
        ) from None
    return huggingface_hub


def endpoint() -> str:
    """Return the address of the hub: HF_ENDPOINT, or https://huggingface.co."""
    return str(_hub().constants.ENDPOINT)


def cache_folder() -> Path:
    """Return the hub's cache, which other programs share: HF_HUB_CACHE, or a folder in HF_HOME."""
    return Path(_hub().constants.HF_HUB_CACHE)


def is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids requests."""
    constants = _hub().constants
    mode = getattr(constants, "is_offline_mode", None)
    return bool(constants.HF_HUB_OFFLINE if mode is None else mode())


def list_files(name: HubName) -> Listing:
    """Ask the hub for the files of a repository at a revision.

    Raises
    ------
    HubError
        If there is no such repository or revision, access is refused, or the hub cannot be reached.
    MissingDependencyError
        If huggingface_hub is not installed.
    """
    _require_requests(name)
    api = _hub().HfApi(library_name="rwkv_cy", library_version=__version__)
    with _errors_of(name):
        info = api.model_info(name.repository, revision=name.revision, files_metadata=True, timeout=_LISTING_SECONDS)
        files = [_file(entry) for entry in info.siblings or ()]
        commit = info.sha
    return Listing.checked(str(name), commit, files)


def _file(entry: Any) -> RemoteFile:
    """Return an entry of the list; the checker refuses values of the wrong type."""
    digest = entry.blob_id if entry.lfs is None else entry.lfs.sha256
    return RemoteFile(entry.rfilename, entry.size, digest)


@contextmanager
def open_stream(name: HubName, offset: int) -> Iterator[Stream]:
    """Open a file of a repository for reading from `offset`.

    Parameters
    ----------
    name : HubName
        With the file, and a commit as revision.
    offset : int

    Raises
    ------
    HubError
        If access is refused, or the hub cannot be reached.
    """
    _require_requests(name)
    hub = _hub()
    url = f"{endpoint()}/{name.repository}/resolve/{quote(name.revision, safe='')}/{quote(name.file)}"
    # Positions are those of the file, not of a compressed stream.
    wanted = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
    with ExitStack() as stack:
        with _errors_of(name):
            headers = {**hub.utils.build_hf_headers(library_name="rwkv_cy", library_version=__version__), **wanted}
            response, chunks = _request(hub.utils.get_session(), url, headers, stack)
            hub.utils.hf_raise_for_status(response)
            start = _start(name, response, offset)
        yield Stream(start, _checked_chunks(name, chunks))


def _request(session: Any, url: str, headers: dict[str, str], stack: ExitStack) -> tuple[Any, Iterator[bytes]]:
    """Send a GET request with httpx, or before version 1.0 of huggingface_hub with requests."""
    if callable(getattr(session, "stream", None)):
        options = {"headers": headers, "timeout": _READ_SECONDS, "follow_redirects": True}
        response = stack.enter_context(session.stream("GET", url, **options))
        return response, response.iter_bytes(_CHUNK)
    response = stack.enter_context(session.get(url, headers=headers, timeout=_READ_SECONDS, stream=True))
    return response, response.iter_content(_CHUNK)


def _start(name: HubName, response: Any, offset: int) -> int:
    """Return the position of the first byte of a response."""
    if response.status_code == 200:
        return 0
    span = str(response.headers.get("Content-Range", ""))
    if response.status_code != 206 or not span.startswith(f"bytes {offset}-"):
        raise HubError(
            f"{name}: expected the bytes from {offset}, got status {response.status_code} and {span[:80]!r}; "
            "check HF_ENDPOINT, or the proxy",
            transient=True,
        )
    return offset


def _checked_chunks(name: HubName, chunks: Iterator[bytes]) -> Iterator[bytes]:
    while True:
        with _errors_of(name):
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


def _require_requests(name: HubName) -> None:
    if is_offline():
        raise HubError(
            f"{name}: it is not in the cache, and HF_HUB_OFFLINE forbids requests; unset it, or copy the file here"
        )


@contextmanager
def _errors_of(name: HubName) -> Iterator[None]:
    """Convert whatever huggingface_hub and its HTTP client raise into a HubError."""
    try:
        yield
    except RWKVError:
        raise
    except Exception as error:
        raise _translated(error, name) from error


def _translated(error: Exception, name: HubName) -> HubError:
    errors = _hub().errors
    meanings: tuple[tuple[type[Exception], Callable[[], str]], ...] = (
        (
            errors.GatedRepoError,
            lambda: f"its owner grants access on request: ask for it at {endpoint()}/{name.repository}, then {_LOGIN}",
        ),
        (
            errors.RepositoryNotFoundError,
            lambda: f"{endpoint()} has no such repository, or it is private; check the name, or {_LOGIN}",
        ),
        (
            errors.RevisionNotFoundError,
            lambda: f"{name.repository} has no revision {name.revision!r}; check the branch, tag or commit",
        ),
        (errors.EntryNotFoundError, lambda: "the repository has no such file; pull --list shows its files"),
    )
    for kind, message in meanings:
        if isinstance(error, kind):
            return HubError(f"{name}: {message()}")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return HubError(f"{name}: {endpoint()} refuses access ({status}): the token is not valid here; {_LOGIN}")
    if status is not None:
        return HubError(
            f"{name}: {endpoint()} answered with status {status}; try again later", transient=status in _TRANSIENT
        )
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:200].rstrip(": ")
    if _is_transport_error(error):
        return HubError(
            f"{name}: no answer from {endpoint()} ({reason}); check the network, or name a mirror with HF_ENDPOINT",
            transient=True,
        )
    return HubError(f"{name}: {endpoint()} does not answer as a Hugging Face hub ({reason}); check HF_ENDPOINT")


def _is_transport_error(error: Exception) -> bool:
    """Tell whether an HTTP client raised an error because of a connection, whichever client it is."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "JSONDecodeError" not in names and not names.isdisjoint(_TRANSPORT_ERRORS)
