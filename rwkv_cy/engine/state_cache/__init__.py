"""States at prefixes of texts, so that a prompt is read from where an earlier one left off."""

from __future__ import annotations

from rwkv_cy.engine.state_cache.cache import CacheStats, StateCache

__all__ = ["CacheStats", "StateCache"]
