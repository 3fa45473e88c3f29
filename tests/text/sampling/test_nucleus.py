"""Candidates and their probabilities against a full sort in float64, for both orders."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_cy.errors import GenerationError
from rwkv_cy.text.sampling.nucleus import Candidates, NucleusSearch, Search, find_candidates
from rwkv_cy.text.sampling.options import SamplingOptions

Logits = npt.NDArray[np.float32]


def choose(logits: Logits, temperature: float, top_p: float, top_k: int, order: str) -> Candidates:
    options = SamplingOptions(temperature=temperature, top_p=top_p, top_k=top_k, order=order)
    (found,) = find_candidates([Search(logits, options)], NucleusSearch())
    if isinstance(found, Exception):
        raise found
    return found


def softmax(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


def rwkv_reference(logits: Logits, temperature: float, top_p: float, top_k: int) -> npt.NDArray[np.float64]:
    """Probabilities by the semantics of the rwkv package's ``sample_logits``, in float64."""
    if temperature == 0:
        temperature, top_p = 1.0, 0.0
    p = softmax(logits.astype(np.float64))
    ids = np.argsort(p, kind="stable")
    descending = p[ids][::-1]
    if top_p < 1:
        p[p < descending[np.argmax(np.cumsum(descending) >= top_p)]] = 0
    if 0 < top_k < p.size:
        p[ids[:-top_k]] = 0
    p = p ** (1 / temperature)
    return np.asarray(p / p.sum())


def cooled_first_reference(logits: Logits, temperature: float, top_p: float, top_k: int) -> npt.NDArray[np.float64]:
    """Temperature, top-k, top-p."""
    x = logits.astype(np.float64)
    ids = np.argsort(-x, kind="stable")
    if temperature == 0:
        ids, temperature = ids[:1], 1.0
    ids = ids[: top_k or None]
    p = softmax(x[ids] / temperature)
    if top_p < 1:
        ids = ids[: int(np.argmax(np.cumsum(p) >= top_p)) + 1]
    result = np.zeros(x.size)
    result[ids] = softmax(x[ids] / temperature)
    return result


REFERENCES = {"rwkv": rwkv_reference, "temperature-first": cooled_first_reference}


@pytest.mark.parametrize("order", REFERENCES)
@pytest.mark.parametrize("spread", [0.5, 3.0, 8.0])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize(("top_p", "top_k"), [(0.0, 0), (0.5, 0), (0.85, 0), (1.0, 0), (0.9, 7), (1.0, 7), (0.3, 400)])
def test_as_the_reference(order: str, spread: float, temperature: float, top_p: float, top_k: int) -> None:
    logits = (np.random.default_rng(3).standard_normal(900) * spread).astype(np.float32)
    found = choose(logits.copy(), temperature, top_p, top_k, order)
    expected = REFERENCES[order](logits, temperature, top_p, top_k)
    assert found.tokens.tolist() == np.flatnonzero(expected).tolist()
    np.testing.assert_allclose(found.probabilities, expected[found.tokens], rtol=1e-12)


@given(
    st.lists(st.integers(-60, 60), min_size=1, max_size=12, unique=True),
    st.sampled_from([0.01, 0.4, 0.9]),
    st.integers(0, 13),
)
@settings(max_examples=200, deadline=None)
def test_small_vocabularies(numbers: list[int], top_p: float, top_k: int) -> None:
    logits = np.array(numbers, dtype=np.float32) / 10
    for order, reference in REFERENCES.items():
        found = choose(logits, 0.7, top_p, top_k, order)
        expected = reference(logits, 0.7, top_p, top_k)
        assert found.tokens.tolist() == np.flatnonzero(expected).tolist()
        np.testing.assert_allclose(found.probabilities, expected[found.tokens], rtol=1e-12)


def test_the_two_orders_differ() -> None:
    """Probabilities 0.6, 0.3, 0.1: at temperature 3 the first reaches 0.5 alone only before the temperature."""
    logits = np.log(np.array([0.6, 0.3, 0.1])).astype(np.float32)
    assert choose(logits, 3.0, 0.5, 0, "rwkv").tokens.tolist() == [0]
    assert choose(logits, 3.0, 0.5, 0, "temperature-first").tokens.tolist() == [0, 1]


def test_equals() -> None:
    logits = np.array([0, 5, 5, 0, 5, 0], dtype=np.float32)
    assert choose(logits, 1.0, 0.0, 0, "temperature-first").tokens.tolist() == [1]
    assert choose(logits, 0.0, 0.9, 0, "temperature-first").tokens.tolist() == [1]
    assert choose(logits, 1.0, 1.0, 2, "temperature-first").tokens.tolist() == [1, 2]
    assert choose(logits, 1.0, 0.5, 0, "temperature-first").tokens.tolist() == [1, 2]
    # the rwkv package keeps all that are not less likely than the last
    assert choose(logits, 1.0, 0.0, 0, "rwkv").tokens.tolist() == [1, 2, 4]
    assert choose(logits, 0.0, 0.9, 0, "rwkv").tokens.tolist() == [1, 2, 4]
    assert choose(logits, 1.0, 0.5, 0, "rwkv").tokens.tolist() == [1, 2, 4]
    assert choose(logits, 1.0, 0.5, 2, "rwkv").tokens.tolist() == [1, 2]


@pytest.mark.parametrize("order", REFERENCES)
@pytest.mark.parametrize("temperature", [1e-300, 5e-324, 1e-20, 1e300])
def test_extreme_temperatures(order: str, temperature: float) -> None:
    logits = np.array([1, 3, 2, -np.inf, 3e38, -3e38], dtype=np.float32)
    found = choose(logits, temperature, 1.0, 0, order)
    assert found.probabilities.sum() == pytest.approx(1)
    if temperature < 1:
        assert found.tokens.tolist() == [4]


@pytest.mark.parametrize("order", REFERENCES)
@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.9, 0), (1.0, 3), (0.9, 3)])
def test_banned_tokens_are_never_candidates(order: str, top_p: float, top_k: int) -> None:
    logits = np.array([-np.inf, 1, -np.inf, 1.5], dtype=np.float32)
    assert choose(logits, 1.0, top_p, top_k, order).tokens.tolist() == [1, 3]


@pytest.mark.parametrize("top_k", [1, 7, 40, 300, 512, 700])
def test_top_k_of_a_large_vocabulary(top_k: int) -> None:
    """Blocks are looked at first; with many equal logits too."""
    rng = np.random.default_rng(11)
    for logits in (
        rng.normal(0, 2, 65_537).astype(np.float32),
        np.round(rng.normal(0, 2, 65_536)).astype(np.float32),
        np.where(rng.random(70_000) < 0.9, -np.inf, rng.normal(0, 2, 70_000)).astype(np.float32),
    ):
        found = choose(logits, 1.0, 1.0, top_k, "temperature-first")
        assert found.tokens.tolist() == sorted(np.argsort(-logits, kind="stable")[:top_k].tolist())


def test_a_temperature_beyond_float32() -> None:
    logits = np.array([-np.inf, 1, 2], dtype=np.float32)
    assert choose(logits, 1e300, 0.9, 0, "temperature-first").tokens.tolist() == [1, 2]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_at_once_as_each_alone(threads: int) -> None:
    """Options of all kinds; some have no token left."""
    rng = np.random.default_rng(8)
    nuclei = NucleusSearch()
    for count in (3, 30, 1):
        cases = []
        for _ in range(count):
            logits = np.round(rng.normal(0, 4, int(rng.choice([5, 200, 4_000]))), 1).astype(np.float32)
            logits[rng.random(logits.size) < rng.choice([0, 0.5, 1.1])] = -np.inf
            order, top_k = str(rng.choice([*REFERENCES])), int(rng.choice([0, 0, 1, 20]))
            temperature, top_p = float(rng.choice([0, 1e-3, 0.7, 1, 1e30])), float(rng.choice([0, 0.5, 0.9, 1]))
            cases.append((logits, temperature, top_p, top_k, order))
        searches = [
            Search(logits, SamplingOptions(temperature=temperature, top_p=top_p, top_k=top_k, order=order))
            for logits, temperature, top_p, top_k, order in cases
        ]
        for case, found in zip(cases, find_candidates(searches, nuclei, threads), strict=True):
            if isinstance(found, Exception):
                assert isinstance(found, GenerationError)
                assert np.all(case[0] == -np.inf)
                continue
            expected = choose(*case)
            assert found.tokens.tolist() == expected.tokens.tolist()
            assert found.probabilities.tobytes() == expected.probabilities.tobytes()


@pytest.mark.parametrize("order", REFERENCES)
@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.9, 0), (1.0, 3), (0.0, 0)])
def test_whatever_numpy_makes_an_error(order: str, top_p: float, top_k: int) -> None:
    logits = np.array([0, 3, -np.inf, -744, -3e38, 3], dtype=np.float32)
    for temperature in (1e-300, 0.5, 1.0, 1e300):
        expected = choose(logits, temperature, top_p, top_k, order)
        with np.errstate(all="raise"):
            found = choose(logits, temperature, top_p, top_k, order)
        assert found.tokens.tolist() == expected.tokens.tolist()
        assert found.probabilities.tobytes() == expected.probabilities.tobytes()


def test_an_error_of_one_search_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, options = np.array([0, 1, 2], dtype=np.float32), SamplingOptions(top_p=0.9)
    searches = [Search(logits, options) for _ in range(3)]

    def fails(places: object, highest: float) -> Candidates:
        raise MemoryError

    monkeypatch.setattr(searches[1], "candidates", fails)
    kinds = [type(found) for found in find_candidates(searches, NucleusSearch())]
    assert kinds == [Candidates, MemoryError, Candidates]


@pytest.mark.parametrize("order", ["temperature-first", "rwkv"])
def test_subnormal_logits_are_as_likely_as_zero(order: str) -> None:
    logits = np.array([0, 1e-40, -1e-40, -1e30], dtype=np.float32)
    found = choose(logits, 1.0, 0.5, 0, order)
    assert found.tokens.tolist() == ([0, 1] if order == "temperature-first" else [0, 1, 2])
    assert np.ptp(found.probabilities) == 0


def test_all_banned() -> None:
    with pytest.raises(GenerationError, match="expected at least one token that is not banned, got none; ban fewer"):
        choose(np.full(4, -np.inf, dtype=np.float32), 1.0, 0.5, 0, "rwkv")
    with pytest.raises(GenerationError, match="expected at least one token that is not banned"):
        choose(np.full(4, -np.inf, dtype=np.float32), 0.7, 1.0, 2, "temperature-first")
