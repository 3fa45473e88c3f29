"""The curves of each version are vectors that it has, and show what its formula computes."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.cases import CONFIGS
from rwkv_cy.architectures import ARCHITECTURES, architecture_of
from rwkv_cy.architectures.curves import doubly_exponential, one_minus, sigmoid


@pytest.mark.parametrize("case", CONFIGS)
def test_every_curve_is_a_vector_of_the_layers(case: str) -> None:
    config = CONFIGS[case]
    architecture = architecture_of(config)
    kinds = {spec.name: spec.kind for spec in architecture.layer_parameters(config, 1)}
    assert {kinds.get(curve.name) for curve in architecture.curves} == {"vector"}
    assert len({curve.name for curve in architecture.curves}) == len(architecture.curves)


@pytest.mark.parametrize("case", CONFIGS)
def test_decays_and_mixes_are_complete(case: str) -> None:
    config = CONFIGS[case]
    architecture = architecture_of(config)
    roles = [curve.role for curve in architecture.curves]
    assert roles.count("decay") == 1
    assert roles.count("bonus") == 1
    assert roles.count("mix") >= 5
    layer = {spec.name: spec for spec in architecture.layer_parameters(config, 1)}
    for curve in architecture.curves:
        shown = curve.transform(np.asarray(layer[curve.name].initialise(np.random.default_rng(0))))
        if curve.role in ("decay", "mix"):  # of a new model
            assert -0.31 <= shown.min() <= shown.max() <= 1, curve.name


def test_transforms() -> None:
    x = np.array([-2.0, 0.0, 3.0])
    np.testing.assert_allclose(doubly_exponential(x), np.exp(-np.exp(x)))
    np.testing.assert_allclose(sigmoid(x), 1 / (1 + np.exp(-x)))
    np.testing.assert_allclose(one_minus(x), [3, 1, -2])
    extreme = np.array([-1e4, 1e4])
    np.testing.assert_array_equal(doubly_exponential(extreme), [1, 0])
    np.testing.assert_array_equal(sigmoid(extreme), [0, 1])
    decays = {curve.name: curve for one in ARCHITECTURES.values() for curve in one.curves if curve.role == "decay"}
    # The least decay of RWKV-7 is exp(-1 / sqrt(e)).
    np.testing.assert_allclose(decays["att.w0"].transform(extreme), [1, np.exp(-np.exp(-0.5))])
