"""Exact speculation: drafts of the next tokens are verified in one pass, and change nothing but the time."""

from __future__ import annotations

from rwkv_cy.engine.speculation.plan import Speculation

__all__ = ["Speculation"]
