"""Places where states are stored."""

from __future__ import annotations

import pytest

from rwkv_cy.engine.state_cache.places import WEIGHTS, ladder, places_of_prompt


@pytest.mark.parametrize(
    ("length", "places"),
    [
        (0, set()),
        (512, set()),
        (1024, {512}),
        (2600, {1024, 2048, 2560}),
        (100_000, {512 * place for place in (128, 160, 176, 184, 188, 192, 194, 195)}),
    ],
)
def test_ladder(length: int, places: set[int]) -> None:
    assert ladder(length) == places


def test_a_ladder_grows_slowly() -> None:
    assert len(ladder(1 << 20)) < 16
    for length in range(600, 60_000, 512):
        later = ladder(length + 512)
        assert later - ladder(length) == {max(later)}  # each longer text keeps places of the one before


@pytest.mark.parametrize(
    ("length", "start", "arguments", "places"),
    [
        (10, 0, {}, {10: "prompt"}),
        (100, 0, {"branch": 50}, {50: "branch", 100: "prompt"}),
        (100, 40, {"branch": 50}, {100: "prompt"}),  # too near to the start
        (100, 0, {"branch": 90}, {100: "prompt"}),  # too near to the end
        (100, 0, {"breakpoints": [1, 99, 100]}, {1: "breakpoint", 99: "breakpoint", 100: "prompt"}),
        (100, 20, {"breakpoints": [20]}, {100: "prompt"}),
        (300, 0, {"message_ends": [40, 60, 100]}, {60: "message", 100: "message", 300: "prompt"}),
        (
            900,
            0,
            {"message_ends": range(100, 800, 100)},
            {400: "message", 500: "message", 600: "message", 700: "message", 900: "prompt"},
        ),
        (1200, 0, {"branch": 500}, {500: "branch", 1024: "ladder", 1200: "prompt"}),
        (1200, 0, {}, {512: "ladder", 1024: "ladder", 1200: "prompt"}),
    ],
)
def test_places_of_a_prompt(length: int, start: int, arguments: dict[str, object], places: dict[int, str]) -> None:
    found = places_of_prompt(length, start, **arguments)  # type: ignore[arg-type]
    assert found == places
    assert set(found.values()) <= set(WEIGHTS)
