"""A short run of each fuzz target, which ``--fuzz-examples`` makes long, and every finding of the past."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.mutate import fuzz
from fuzz.target import Target
from fuzz.targets import TARGETS
from rwkv_cy.errors import RWKVError

FINDINGS = sorted((Path(__file__).parent / "findings").glob("*/*"))


@pytest.fixture(params=TARGETS.values(), ids=TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Return each target in turn."""
    yield request.param
    request.param.finish()


def test_damaged_files_end_in_errors_of_the_package(target: Target, fuzz_examples: int) -> None:
    fuzz(target, fuzz_examples)


def test_checksums_are_made_to_fit(target: Target) -> None:
    for seed in target.seeds():
        target.run(target.repair(seed))
        assert target.repair(target.repair(seed)) == target.repair(seed)


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_once(path: Path) -> None:
    target = TARGETS[path.parent.name]
    try:
        target.run(path.read_bytes())
    except RWKVError:
        return
    finally:
        target.finish()
