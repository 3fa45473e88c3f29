"""Which answers a request allows: the grammar of ``response_format``, and that of calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rwkv_cy.chat import CallConstraint, CallGrammar, Conversation, needs_grammar
from rwkv_cy.errors import GenerationError, MissingDependencyError
from rwkv_cy.server.errors import ApiError, invalid
from rwkv_cy.server.service import Service
from rwkv_cy.text import Grammar, GrammarConstraint

__all__ = ["call_constraints", "constraints", "grammar_of"]

_KINDS = ("text", "json_object", "json_schema", "grammar")
_SYNTAXES = ("lark", "gbnf", "regex")


async def constraints(
    service: Service, given: Mapping[str, Any] | None, count: int, param: str = "response_format"
) -> list[list[GrammarConstraint]]:
    """Return the constraints of `count` answers, each a list, empty if the request does not restrict its answers.

    Parameters
    ----------
    service : Service
    given : mapping, optional
        The request's field.
    count : int
    param : str
        Its name, for errors.

    Raises
    ------
    ApiError
        If it is not a format, or the grammar is wrong or too large.
    MissingDependencyError
        If llguidance is not installed.
    """
    grammar = grammar_of(given, service.settings.limits.schema_bytes, param)
    if grammar is None:
        return [[] for _ in range(count)]

    def compile_all() -> list[list[GrammarConstraint]]:
        return [[grammar.constraint(service.tokenizer)] for _ in range(count)]

    try:
        made: list[list[GrammarConstraint]] = await service.aside(True, compile_all)
    except GenerationError as error:
        raise invalid(param, str(error), "invalid_grammar") from None
    return made


async def call_constraints(
    service: Service, conversation: Conversation, opening: str, count: int
) -> tuple[list[list[CallConstraint]], bool]:
    """Return what restricts the calls of `count` answers, and whether it is a grammar.

    Parameters
    ----------
    service : Service
    conversation : Conversation
    opening : str
        The beginning of the answers that is part of the prompt.
    count : int

    Raises
    ------
    ApiError
        If a strict tool's schema is wrong, not supported or too large.
    MissingDependencyError
        If a tool is strict, and llguidance is not installed.
    """
    tools = conversation.callable_tools

    def compile_all() -> list[list[CallConstraint]]:
        grammar = CallGrammar(
            conversation, service.tokenizer, service.chat.call_open, service.settings.limits.schema_bytes
        )
        return [[grammar.constraint(opening)] for _ in range(count)]

    if needs_grammar(conversation):
        try:
            made: list[list[CallConstraint]] = await service.aside(True, compile_all)
        except GenerationError as error:
            raise ApiError(400, str(error), param="tools", code="invalid_grammar") from None
        except MissingDependencyError:
            if any(tool.strict for tool in tools):
                raise
        else:
            return made, True
    if not tools or conversation.parallel_calls:
        return [[] for _ in range(count)], False
    names = [tool.name for tool in tools]
    return [[CallConstraint(names, service.tokenizer, opening, single=True)] for _ in range(count)], False


def grammar_of(given: Mapping[str, Any] | None, most: int, param: str = "response_format") -> Grammar | None:
    """Return the grammar of a format of at most `most` bytes; None for text. ApiError if it is not a format."""
    kind = "text" if given is None else given.get("type")
    if kind not in _KINDS:
        raise invalid(f"{param}.type", f"expected one of {', '.join(_KINDS)}, got {str(kind)[:40]!r}")
    if given is None or kind == "text":
        return None
    size = len(msgspec.json.encode(given))
    if size > most:
        raise invalid(param, f"expected at most {most} bytes, got {size}", "schema_too_large")
    if kind == "json_object":
        return Grammar.json_object()
    try:
        if kind == "json_schema":
            return Grammar.json_schema(_schema(given, param))
        syntax, text = given.get("syntax", "lark"), given.get("grammar")
        if syntax not in _SYNTAXES:
            raise invalid(f"{param}.syntax", f"expected one of {', '.join(_SYNTAXES)}, got {str(syntax)[:40]!r}")
        return Grammar(syntax, text)  # type: ignore[arg-type]
    except GenerationError as error:
        raise invalid(param, str(error), "invalid_grammar") from None


def _schema(given: Mapping[str, Any], param: str) -> Mapping[str, Any]:
    """Return the schema: within ``json_schema`` in chats, beside the type in responses."""
    holder = given.get("json_schema", given)
    schema = holder.get("schema") if isinstance(holder, Mapping) else None
    if not isinstance(schema, Mapping):
        raise invalid(param, f"expected a JSON schema as an object, got {type(schema).__name__}", "invalid_grammar")
    return schema
