"""Grammar: a JSON schema, a regular expression or rules, checked and compiled for a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rwkv_cy.errors import GenerationError
from rwkv_cy.records import dataclass
from rwkv_cy.text.grammars.constraint import GrammarConstraint
from rwkv_cy.text.grammars.vocabulary import grammar_vocabulary, require_llguidance
from rwkv_cy.text.tokenizers import Tokenizer

__all__ = ["GRAMMAR_KINDS", "Grammar", "schema_with_options"]

GRAMMAR_KINDS = ("json_schema", "regex", "lark", "gbnf")
#: Bytes of a grammar.
_MAX_BYTES = 1 << 20
#: Steps that compiling, and a token, may take; of the order of a second, and of 50 ms.
_LIMITS = {"initial_lexer_fuel": 20_000_000, "step_lexer_fuel": 500_000, "max_grammar_size": 500_000}
#: JSON as Python's json.dumps writes it: a model that may add white space sometimes does not stop to.
_JSON = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False, "lenient": False}
_SHOWN = 300


@dataclass(frozen=True)
class Grammar:
    """A set of texts that may be generated. Needs llguidance: ``pip install 'rwkv-cy[grammar]'``.

    Attributes
    ----------
    kind : str
        One of :data:`GRAMMAR_KINDS`.
    text : str
        The schema as JSON; a regular expression of Rust's syntax, for the whole text; rules in llguidance's variant of
        Lark with ``start``, or in the GBNF of llama.cpp with ``root``.

    Raises
    ------
    GenerationError
        If the kind is unknown, or the text is too long or, for a schema, not JSON.
    """

    kind: str
    text: str

    def __post_init__(self) -> None:
        if self.kind not in GRAMMAR_KINDS:
            raise GenerationError(f"grammar: expected one of {', '.join(GRAMMAR_KINDS)}, got {str(self.kind)[:40]!r}")
        if not isinstance(self.text, str):
            raise GenerationError(f"{self.kind}: expected a str, got {type(self.text).__name__}")
        size = len(self.text.encode("utf-8", "surrogatepass"))
        if size > _MAX_BYTES:
            raise GenerationError(f"{self.kind}: expected at most {_MAX_BYTES} bytes, got {size}; simplify it")
        if self.kind == "json_schema":
            _check_schema(self.text)

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str) -> Grammar:
        """Return the JSON values that a schema (draft 2020-12, as an object or as JSON) allows."""
        if isinstance(schema, str):
            return cls("json_schema", schema)
        try:
            return cls("json_schema", json.dumps(schema))
        except (TypeError, ValueError, RecursionError) as error:
            raise GenerationError(f"json_schema: expected a schema that JSON can express: {error}") from None

    @classmethod
    def json_object(cls) -> Grammar:
        """Return all JSON objects."""
        return cls("json_schema", '{"type": "object"}')

    def constraint(self, tokenizer: Tokenizer) -> GrammarConstraint:
        """Return a logits processor for one text.

        Parameters
        ----------
        tokenizer : Tokenizer

        Raises
        ------
        GenerationError
            If the grammar is wrong, not supported, too complex, or allows no text.
        MissingDependencyError
            If llguidance is not installed.
        """
        llguidance = require_llguidance()
        vocabulary = grammar_vocabulary(tokenizer)
        limits = llguidance.LLParserLimits(**_LIMITS)
        try:
            source = _SOURCES[self.kind](llguidance, self.text)
            matcher = llguidance.LLMatcher(vocabulary, source, log_level=0, limits=limits)
            message = matcher.get_error()
        except Exception as error:
            message = str(error) or type(error).__name__
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of llguidance's code in Rust
                raise
            message = str(error)
        if message:
            raise GenerationError(f"{self.kind}: {_one_line(message)}")
        return GrammarConstraint(matcher, vocabulary.eos_token, tokenizer.vocab_size, self.kind)


def schema_with_options(schema: Mapping[str, Any], *, lenient: bool = False) -> dict[str, Any]:
    """Return a schema for rules of Lark (``%json``), whose JSON is written as that of a schema alone.

    Parameters
    ----------
    schema : mapping
    lenient : bool, default False
        Whether keywords that are not supported have no effect, in place of being errors.
    """
    return {**schema, "x-guidance": {**_JSON, "lenient": lenient}}


def _check_schema(text: str) -> None:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GenerationError(f"json_schema: expected JSON: {str(error)[:_SHOWN]}") from None
    if not isinstance(schema, (dict, bool)):
        raise GenerationError(f"json_schema: expected an object, got {text[:40]!r}")


def _one_line(message: str) -> str:
    return " ".join(message.split("<state>")[0].split())[:_SHOWN]


def _schema_source(llguidance: Any, text: str) -> Any:
    return llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_JSON)


def _regex_source(llguidance: Any, text: str) -> Any:
    return llguidance.LLMatcher.grammar_from_regex(text)


def _lark_source(llguidance: Any, text: str) -> Any:
    return llguidance.LLMatcher.grammar_from_lark(text)


def _gbnf_source(llguidance: Any, text: str) -> Any:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    return llguidance.LLMatcher.grammar_from_lark(gbnf_to_lark(text))


_SOURCES: dict[str, Callable[[Any, str], Any]] = {
    "json_schema": _schema_source,
    "regex": _regex_source,
    "lark": _lark_source,
    "gbnf": _gbnf_source,
}
