"""Who may use the server: API keys, names in the Host header, origins of pages."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from rwkv_cy.errors import ConfigError
from rwkv_cy.server.errors import ApiError

__all__ = ["LOCAL_HOSTS", "check_host", "check_key", "cors_headers", "is_loopback", "owner_of", "parse_keys"]

#: Names of this machine that a page of a stranger cannot bind to its own name.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_METHODS, _HEADERS = "GET, POST, DELETE, OPTIONS", "authorization, content-type, x-api-key, x-request-id"
_SHORTEST_KEY = 8


def is_loopback(address: str) -> bool:
    """Tell whether only this machine reaches an address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_keys(text: str, where: str) -> tuple[str, ...]:
    """Return the API keys of a file: one a line; empty lines and those that begin with ``#`` are skipped.

    Raises
    ------
    ConfigError
        If a key is short, has white space or characters that headers cannot hold, or if there is none.
    """
    lines = (line.strip() for line in text.splitlines())
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    for number, key in enumerate(keys, 1):
        if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                f"{where}: key {number}: expected at least {_SHORTEST_KEY} characters of ASCII, no spaces"
            )
    if not keys:
        raise ConfigError(f"{where}: expected at least one API key, got none")
    return keys


def check_host(host: str | None, allowed: Sequence[str] | None) -> None:
    """Raise ApiError if the Host header names another machine: a page whose name was bound to this address.

    Parameters
    ----------
    host : str or None
        The header.
    allowed : sequence of str or None
        Names without a port; None allows all.
    """
    if allowed is None:
        return
    name = (host or "").strip().lower()
    name = name[: name.find("]") + 1] if name.startswith("[") else name.partition(":")[0].rstrip(".")
    if name not in allowed and not (name.endswith(".localhost") and "localhost" in allowed):
        raise ApiError(
            403,
            f"host: expected one of {', '.join(allowed)} in the Host header, got {name[:100]!r}; "
            "allow it with --allow-host",
            "permission_error",
            code="host_not_allowed",
        )


def check_key(headers: Mapping[str, str], keys: Iterable[str]) -> str:
    """Return whose request it is: a digest of its API key, or an empty text where none is needed.

    Raises
    ------
    ApiError
        With status 401, if the key is missing or wrong.
    """
    keys = tuple(keys)
    if not keys:
        return ""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = headers.get("x-api-key", "")
    # Every key is compared, and each in constant time.
    matches = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys]
    if not any(matches):
        what = "incorrect API key" if given else "API key is missing: send Authorization: Bearer KEY"
        raise ApiError(401, what, "authentication_error", code="invalid_api_key")
    return owner_of(given.strip())


def owner_of(key: str) -> str:
    """Return a digest that separates what the users of different keys store."""
    return hashlib.blake2b(key.encode(), digest_size=8, person=b"rwkv-cy-owner").hexdigest()


def cors_headers(origin: str | None, allowed: Sequence[str]) -> dict[str, str]:
    """Return the headers that let a page of `origin` read an answer; none unless that origin is allowed."""
    if origin is None or not ("*" in allowed or origin in allowed):
        return {}
    return {
        "access-control-allow-origin": "*" if "*" in allowed else origin,
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": _HEADERS,
        "access-control-expose-headers": "x-request-id, retry-after",
        "access-control-max-age": "600",
        "vary": "origin",
    }
