"""How the next token is chosen: options, penalties, constraints, the nucleus, and the sampler that applies them."""

from __future__ import annotations

from rwkv_cy.text.sampling.constraints import LogitsProcessor
from rwkv_cy.text.sampling.nucleus import Candidates, NucleusSearch, Search, find_candidates
from rwkv_cy.text.sampling.options import SamplingKeywords, SamplingOptions
from rwkv_cy.text.sampling.sampler import Sampler, make_rng

__all__ = [
    "Candidates",
    "LogitsProcessor",
    "NucleusSearch",
    "Sampler",
    "SamplingKeywords",
    "SamplingOptions",
    "Search",
    "find_candidates",
    "make_rng",
]
