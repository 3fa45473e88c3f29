"""Stop strings, for every split of the text into pieces."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_cy.errors import GenerationError
from rwkv_cy.text.stopping import StopStrings

texts = st.text("ab\n", max_size=24)


@given(texts, st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=3), st.lists(st.integers(0, 24), max_size=8))
@settings(max_examples=400, deadline=None)
def test_any_cut_of_any_text(text: str, stops: list[str], cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    places = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    filter_ = StopStrings(stops)
    out = ""
    for a, b in itertools.pairwise(bounds):
        out += filter_.push(text[a:b])
        # never more than what stands before a stop string, never less than what no stop string could begin in
        assert text.startswith(out)
        if not filter_.stopped:
            held = text[len(out) : b]
            assert any(stop.startswith(held) and stop != held for stop in stops) or not held
    out += filter_.finish()
    assert out == (text[: min(places)[1]] if places else text)
    assert filter_.stopped == bool(places)


def test_nothing_comes_after_the_stop() -> None:
    filter_ = StopStrings("END")
    assert [filter_.push(p) for p in ("one E", "N", "Dtwo", "three")] == ["one ", "", "", ""]
    assert filter_.stopped
    assert filter_.finish() == ""


def test_a_beginning_that_comes_to_nothing() -> None:
    filter_ = StopStrings(["END"])
    assert [filter_.push(p) for p in ("E", "N", "E", "N", "!")] == ["", "", "EN", "", "EN!"]
    assert filter_.push("E") == ""
    assert filter_.finish() == "E"


@pytest.mark.parametrize("stops", ["", [""], [1], [b"a"], ["a", None]])
def test_what_is_no_stop_string(stops: Any) -> None:
    with pytest.raises(GenerationError, match="stop: expected strings of at least one character, got"):
        StopStrings(stops)


def test_what_is_no_list() -> None:
    with pytest.raises(GenerationError, match="stop: expected strings, got 3"):
        StopStrings(3)  # type: ignore[arg-type]
