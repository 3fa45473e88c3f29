"""Models that the tests of the engine run on."""

from __future__ import annotations

import pytest

from engine.helpers import SMALL_MODELS, small_model
from rwkv_cy.model.language_model import LanguageModel


@pytest.fixture(scope="session", params=["kjv", *SMALL_MODELS])
def model(request: pytest.FixtureRequest, kjv: LanguageModel) -> LanguageModel:
    """Return kjv.pth, and small models of other versions."""
    return kjv if request.param == "kjv" else small_model(request.param)
