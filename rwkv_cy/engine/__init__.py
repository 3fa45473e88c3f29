"""Many texts at once: an engine that runs requests side by side, with a cache of states and exact speculation."""

from __future__ import annotations

from rwkv_cy.engine.async_engine import AsyncEngine, EventStream
from rwkv_cy.engine.engine import Engine
from rwkv_cy.engine.events import Event, Timings, TokenLogprobs, Usage
from rwkv_cy.engine.likelihoods import Likelihood, loglikelihoods
from rwkv_cy.engine.request import Request
from rwkv_cy.engine.speculation import Speculation
from rwkv_cy.engine.state_cache import CacheStats, StateCache

__all__ = [
    "AsyncEngine",
    "CacheStats",
    "Engine",
    "Event",
    "EventStream",
    "Likelihood",
    "Request",
    "Speculation",
    "StateCache",
    "Timings",
    "TokenLogprobs",
    "Usage",
    "loglikelihoods",
]
