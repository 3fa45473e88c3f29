"""Models that the tests of the engine run on."""

from __future__ import annotations

import pytest

from engine.helpers import SMALL_MODELS, small_model
from rwkv_cy.model.language_model import LanguageModel


@pytest.fixture(scope="session", params=["demo", *SMALL_MODELS])
def model(request: pytest.FixtureRequest, demo: LanguageModel) -> LanguageModel:
    """Return the demo model, and small models of other versions."""
    return demo if request.param == "demo" else small_model(request.param)
