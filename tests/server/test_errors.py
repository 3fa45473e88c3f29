"""Errors of the API: the codes by which clients tell a wrong type from a wrong value."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest

msgspec = pytest.importorskip("msgspec", reason="the server needs the extra serve")

from rwkv_cy.server.errors import as_api_error  # noqa: E402
from rwkv_cy.server.wire.completions import CompletionRequest  # noqa: E402


class Others(msgspec.Struct):  # type: ignore[misc]
    """Fields of kinds that a completion does not have."""

    names: Annotated[list[str], msgspec.Meta(min_length=1, max_length=2)] | None = None
    name: Annotated[str, msgspec.Meta(max_length=3)] | None = None
    pattern: Annotated[str, msgspec.Meta(pattern="^[a-z]*$")] | None = None
    choice: Literal["a", "b"] | None = None


class Needs(msgspec.Struct):  # type: ignore[misc]
    """A field without a default."""

    name: str


@pytest.mark.parametrize(
    ("kind", "body", "code", "message"),
    [
        (CompletionRequest, '"max_tokens": "5"', "invalid_type", "max_tokens: expected integer or null, got string"),
        (CompletionRequest, '"max_tokens": 1.5', "invalid_type", "max_tokens: expected integer or null, got number"),
        (CompletionRequest, '"temperature": "hot"', "invalid_type", "temperature: expected number or null, got string"),
        (CompletionRequest, '"stream": 1', "invalid_type", "stream: expected boolean or null, got integer"),
        (CompletionRequest, '"max_tokens": -1', "integer_below_min_value", "max_tokens: expected integer >= 0"),
        (CompletionRequest, '"logprobs": 101', "integer_above_max_value", "logprobs: expected integer <= 100"),
        (CompletionRequest, '"top_p": 2', "decimal_above_max_value", "top_p: expected number <= 1.0"),
        (CompletionRequest, '"temperature": -1', "decimal_below_min_value", "temperature: expected number >= 0.0"),
        (Others, '"names": []', "array_below_min_length", "names: expected array of length >= 1"),
        (Others, '"names": ["a", "b", "c"]', "array_above_max_length", "names: expected array of length <= 2"),
        (Others, '"names": [1]', "invalid_type", "names[0]: expected string, got integer"),
        (Others, '"name": "long"', "string_above_max_length", "name: expected string of length <= 3"),
        (Others, '"pattern": "A"', "invalid_value", "pattern: expected string matching regex '^[a-z]*$'"),
        (Others, '"choice": "c"', "invalid_value", "choice: invalid enum value 'c'"),
    ],
)
def test_a_wrong_type_and_a_wrong_value(kind: type, body: str, code: str, message: str) -> None:
    given = '{"model": "m", "prompt": "x", ' + body + "}"
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.json.decode(given, type=kind)
    found = as_api_error(error.value)
    assert (found.status, found.code, found.message) == (400, code, message)
    assert found.param == message.partition(":")[0]


def test_a_field_that_is_missing() -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.json.decode("{}", type=Needs)
    found = as_api_error(error.value)
    assert (found.code, found.param) == ("missing_required_parameter", "name")
