"""Grammars: which texts may be generated, as a JSON schema, a regular expression, or rules; by llguidance."""

from __future__ import annotations

from rwkv_cy.text.grammars.constraint import GrammarConstraint
from rwkv_cy.text.grammars.grammar import GRAMMAR_KINDS, Grammar

__all__ = ["GRAMMAR_KINDS", "Grammar", "GrammarConstraint"]
