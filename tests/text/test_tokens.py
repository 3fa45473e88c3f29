"""Checks of token ids from callers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rwkv_cy.errors import TokenError
from rwkv_cy.text.tokens import check_tokens


def test_integers_of_any_kind() -> None:
    tokens = check_tokens(np.array([1, 2], dtype=np.uint8), 3)
    assert tokens == [1, 2]
    assert all(type(token) is int for token in tokens)
    assert check_tokens((), 3) == []


@pytest.mark.parametrize("token", [-1, 3, 1 << 64])
def test_outside(token: int) -> None:
    with pytest.raises(TokenError, match=rf"tokens\[1\]: expected an id from 0 to 2, got {token}"):
        check_tokens([0, token], 3)


@pytest.mark.parametrize("token", [True, 1.0, "1", None, np.float32(1), np.bool_(True)])
def test_no_integers(token: Any) -> None:
    with pytest.raises(TokenError, match=r"tokens\[0\]: expected an integer, got"):
        check_tokens([token], 3)
