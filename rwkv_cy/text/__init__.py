"""Text in and out: tokenizers, sampling, one text in progress, generation, scores and log-probabilities."""

from __future__ import annotations

from rwkv_cy.text.generate import Generation, TextModel, generate
from rwkv_cy.text.grammars import Grammar, GrammarConstraint
from rwkv_cy.text.logprobs import Logprobs, logprobs
from rwkv_cy.text.sampling import LogitsProcessor, Sampler, SamplingKeywords, SamplingOptions
from rwkv_cy.text.score import ScoringModel, score
from rwkv_cy.text.search import Candidate, beam_search, best_of
from rwkv_cy.text.sequence import Sequence
from rwkv_cy.text.tokenizers import ByteTokenizer, Tokenizer, WorldTokenizer, find_tokenizer, load_tokenizer

__all__ = [
    "ByteTokenizer",
    "Candidate",
    "Generation",
    "Grammar",
    "GrammarConstraint",
    "LogitsProcessor",
    "Logprobs",
    "Sampler",
    "SamplingKeywords",
    "SamplingOptions",
    "ScoringModel",
    "Sequence",
    "TextModel",
    "Tokenizer",
    "WorldTokenizer",
    "beam_search",
    "best_of",
    "find_tokenizer",
    "generate",
    "load_tokenizer",
    "logprobs",
    "score",
]
