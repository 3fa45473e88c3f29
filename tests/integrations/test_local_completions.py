"""lm-eval's ``local-completions`` against the running server gives what rwkv-cy eval gives."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval", reason="runs lm-eval's client against the server")
pytest.importorskip("starlette", reason="runs lm-eval's client against the server")
pytest.importorskip("uvicorn", reason="runs lm-eval's client against the server")
pytest.importorskip("msgspec", reason="runs lm-eval's client against the server")
pytest.importorskip("prometheus_client", reason="runs lm-eval's client against the server")
pytest.importorskip("aiohttp", reason="runs lm-eval's client against the server")
pytest.importorskip("tenacity", reason="runs lm-eval's client against the server")

from rwkv_cy.integrations.evaluation import RWKVLM
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.server.settings import Settings
from server.running import running

pytestmark = pytest.mark.filterwarnings("default")

PAIRS = [
    ("In the beginning God created the heaven and the", " earth"),
    ("And God said, Let there be", "  light"),
    ("And it came to", " pass in those days"),
    ("And it came to", " nothing"),
]


def test_the_same_log_likelihoods(kjv: LanguageModel) -> None:
    from lm_eval.api.registry import get_model

    requests = [SimpleNamespace(args=pair) for pair in PAIRS]
    with running(kjv, Settings("kjv")) as server:
        client = get_model("local-completions")(
            model="kjv", base_url=f"{server.url}/v1/completions", tokenizer_backend="remote", max_length=2048
        )
        theirs = client.loglikelihood(requests)
    for (value, greedy), (expected, their_greedy) in zip(RWKVLM(kjv).loglikelihood(requests), theirs, strict=True):
        assert value == pytest.approx(expected, abs=1e-6)
        assert greedy == their_greedy
