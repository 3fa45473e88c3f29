"""Errors of the API: OpenAI's error objects, with the HTTP status that tells clients what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from rwkv_cy.errors import (
    ConfigError,
    GenerationError,
    MissingDependencyError,
    NotEnoughMemoryError,
    RWKVError,
    StateError,
    TokenError,
    TokenizerError,
)

__all__ = ["ApiError", "as_api_error", "invalid", "not_found", "not_supported"]

#: Errors that the content of a request causes.
_CALLERS = (ConfigError, GenerationError, StateError, TokenError, TokenizerError)


#: Names of types in messages of msgspec, and what JSON and OpenAI's codes call them.
_TYPE = re.compile("`([^`]*)`")
_JSON_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}
_KINDS = {"int": "integer", "float": "decimal", "str": "string"}
#: ``Expected `int` >= 1`` is about a value, ``Expected `int`, got `str``` about a type.
_LIMIT = re.compile("Expected `([a-z]+)` (of length )?([<>]=?) .*")
_MISMATCH = re.compile("Expected `[^`]*`, got ")


class ApiError(Exception):
    """An error that the client is told of.

    Parameters
    ----------
    status : int
        Of HTTP.
    message : str
    kind : str, default "invalid_request_error"
        The ``type`` of OpenAI's error object.
    param : str, optional
        The field that is wrong.
    code : str, optional
    retry_after : float, optional
        Seconds after which the same request may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """Return the error object. Anthropic's clients read the same one, by its outer ``type``."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"type": "error", "error": error}

    def headers(self) -> Mapping[str, str]:
        """Return the headers that tell clients whether and when to try again."""
        if self.retry_after is None:
            return {}
        return {
            "retry-after": str(max(1, round(self.retry_after))),
            "retry-after-ms": str(max(1, round(1000 * self.retry_after))),
            "x-should-retry": "true",
        }


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """Return the error of a request whose field `param` is wrong."""
    return ApiError(400, message if param is None else f"{param}: {message}", param=param, code=code)


def not_found(what: str, name: str, code: str | None = None, param: str | None = None) -> ApiError:
    """Return the error of a name that the server does not know."""
    return ApiError(404, f"{what} {name[:100]!r} does not exist", param=param, code=code)


def not_supported(message: str, param: str | None = None) -> ApiError:
    """Return the error of a request for something that this server, or its model, does not have."""
    return ApiError(501, message, "not_supported_error", param=param, code="not_supported")


def as_api_error(error: BaseException) -> ApiError:
    """Return what a client is told of an exception; of an unexpected one, nothing but that there was one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, msgspec.ValidationError):
        return _of_validation(str(error))
    if isinstance(error, (msgspec.DecodeError, RecursionError, UnicodeDecodeError)):
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        return ApiError(400, f"body: expected valid JSON, but {what}")
    if isinstance(error, _CALLERS):
        return ApiError(400, str(error), param=_param(str(error)))
    if isinstance(error, (MissingDependencyError, NotImplementedError)):
        return not_supported(str(error))
    if isinstance(error, (NotEnoughMemoryError, MemoryError)):
        return ApiError(503, "the server is short of memory", "unavailable_error", retry_after=5)
    if isinstance(error, RWKVError):
        return ApiError(500, str(error), "server_error")
    return ApiError(500, "internal error; the server's log has it under the request id", "server_error")


def _of_validation(text: str) -> ApiError:
    """Translate ``Expected `int`, got `str` - at `$.max_tokens```."""
    message, _, place = text.partition(" - at `")
    param = place.rstrip("`").removeprefix("$").removeprefix(".") or None
    code = _code(message)
    message = _TYPE.sub(_type_names, message)
    if message.startswith("Object missing required field "):
        field = message.removeprefix("Object missing required field ")
        return invalid(
            f"{param}.{field}" if param else field, "expected a value, got none", "missing_required_parameter"
        )
    return invalid(param, message[:1].lower() + message[1:], code)


def _code(message: str) -> str:
    """Return OpenAI's code for a message of msgspec: what is wrong with a type, or with a value of the right type."""
    limit = _LIMIT.fullmatch(message)
    if limit is not None:
        kind, length, sign = limit.groups()
        side = "below_min" if sign.startswith(">") else "above_max"
        return f"{_KINDS.get(kind, kind)}_{side}_{'length' if length else 'value'}"
    return "invalid_type" if _MISMATCH.match(message) else "invalid_value"


def _type_names(quoted: re.Match[str]) -> str:
    """Return types in the words of JSON: ``integer or null`` for ```int | null```."""
    return " or ".join(_JSON_TYPES.get(name, name) for name in quoted[1].split(" | "))


def _param(message: str) -> str | None:
    """Return the field that a message of the package begins with."""
    word = message.partition(":")[0].partition(" of ")[0]
    return word if word.isidentifier() else None
