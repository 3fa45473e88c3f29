"""Shares of a step among prompts."""

from __future__ import annotations

import pytest

from rwkv_cy.engine.schedule import prompt_shares


@pytest.mark.parametrize(
    ("unread", "budget", "shares"),
    [
        ([], 8, []),
        ([100], 8, [8]),
        ([3], 8, [3]),
        ([100, 100], 8, [4, 4]),
        ([100, 2, 50], 8, [3, 2, 3]),
        ([1, 1, 1], 2, [1, 1, 1]),
    ],
)
def test_shares(unread: list[int], budget: int, shares: list[int]) -> None:
    assert prompt_shares(unread, budget) == shares
