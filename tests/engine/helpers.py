"""Models, requests and what they give alone, for the tests of the engine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from contracts.cases import CONFIGS
from rwkv_cy.engine import Event, Request, Speculation
from rwkv_cy.engine.speculation.costs import Costs
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.text import ByteTokenizer, SamplingOptions

#: Small models, whose texts are as random as their weights.
SMALL_MODELS = ("rwkv4", "rwkv7")


def small_model(name: str, seed: int = 0) -> LanguageModel:
    """Return a small model on bytes, with weights that make its logits differ much."""
    config = replace(CONFIGS[name], vocab_size=256)
    model = LanguageModel.new(config, seed, ByteTokenizer())
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for key, parameter in model.parameters.items():
        array = np.array(parameter.array)
        arrays[key] = array + 0.3 * rng.standard_normal(array.shape).astype(array.dtype) if array.ndim == 2 else array
    return LanguageModel(config, arrays, ByteTokenizer())


class Free(Costs):
    """Further tokens cost nothing, so that every draft is tried, however busy the machine is."""

    def ratio(self, before: int, after: int) -> float:
        return 0.5 if after > before else 1.0

    def seconds(self, tokens: int) -> float:
        """Return a time beside which that of a small model does not count."""
        return math.inf


def eager(**arguments: Any) -> Speculation:
    """Return a speculation that tries every draft: the default one tries what pays by measured times."""
    return Speculation(costs=Free(), **arguments)


@dataclass
class Outcome:
    """All that the events of a request say, apart from times."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    reason: str | None = None
    last: Event | None = None

    def compared(self) -> tuple[Any, ...]:
        """Return what must be equal to the last bit."""
        assert self.last is not None
        state, logits = self.last.state, self.last.logits
        return (
            self.text,
            self.tokens,
            self.logprobs,
            self.reason,
            self.last.matched,
            None if state is None else state.data.tobytes(),
            None if logits is None else logits.tobytes(),
        )


def outcomes(events: Iterable[Event]) -> dict[str, Outcome]:
    """Collect events by request."""
    result: dict[str, Outcome] = {}
    for event in events:
        outcome = result.setdefault(event.request_id, Outcome())
        assert outcome.reason is None, "an event after the last one"
        outcome.text += event.text
        if event.token is not None:
            outcome.tokens.append(event.token)
        if event.logprobs is not None:
            outcome.logprobs.append(event.logprobs)
        if event.finish_reason is not None:
            outcome.reason, outcome.last = event.finish_reason, event
    return result


def alone(model: LanguageModel, request: Request) -> tuple[Any, ...]:
    """Return what a request gives by `generate`, one token a call, as `Outcome.compared` does."""
    generation = model.generate(
        request.prompt,
        state=request.state,
        logits=request.logits,  # type: ignore[arg-type]
        max_tokens=request.max_tokens,
        options=request.options,
        logits_processors=request.constraints,
        seed=request.seed,
        stop=request.stop,
        stop_tokens=request.stop_tokens,
    )
    text = "".join(generation)
    state = logits = None
    if request.return_state:
        assert generation.state is not None
        state, logits = generation.state.data.tobytes(), generation.logits.tobytes()
    return text, generation.tokens, generation.finish_reason, generation.sequence.matched, state, logits


def same_as_alone(model: LanguageModel, request: Request, outcome: Outcome) -> None:
    """Check that a request gave what it gives alone."""
    text, tokens, _, reason, matched, state, logits = outcome.compared()
    assert (text, tokens, reason, matched, state, logits) == alone(model, request)
    if request.logprobs is not None:
        produced = len(tokens) + (reason == "stop_token")
        assert [each.token for each in outcome.logprobs][: len(tokens)] == tokens
        assert len(outcome.logprobs) == produced


def random_request(rng: np.random.Generator, text: bytes, longest: int = 300) -> Request:
    """Return a request with options of all kinds, on a piece of a text."""
    length = int(rng.integers(1, longest)) if rng.random() < 0.3 else int(rng.integers(1, 40))
    start = int(rng.integers(0, max(1, len(text) - length)))
    options = SamplingOptions(
        temperature=float(rng.choice([0.0, 0.7, 1.0])),
        top_p=float(rng.choice([0.5, 0.9, 1.0])),
        top_k=int(rng.choice([0, 0, 20])),
        presence_penalty=float(rng.choice([0.0, 0.3])),
        repetition_penalty=float(rng.choice([1.0, 1.2])),
    )
    return Request(
        prompt=text[start : start + length],
        options=options,
        max_tokens=int(rng.integers(0, 30)),
        stop=("the ",) if rng.random() < 0.2 else (),
        stop_tokens=[10] if rng.random() < 0.2 else None,
        seed=int(rng.integers(1 << 30)),
        logprobs=int(rng.integers(0, 4)) if rng.random() < 0.3 else None,
        return_state=bool(rng.random() < 0.3),
        report_progress=bool(rng.random() < 0.2),
    )
