"""The table of a model is that of its layers, also where it is made from that of one layer."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy import Config
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.records import replace


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_table_is_that_of_each_layer(name: str) -> None:
    architecture = ARCHITECTURES[name]
    config = Config(64, 4, vocab_size=40, architecture=name)
    config = architecture.complete(config)
    table = {spec.name: spec for spec in architecture.parameters(config)}
    count = 0
    for layer in range(config.num_layers):
        for own in architecture.parameters_of_layer(config, layer):
            spec = table[f"blocks.{layer}.{own.name}"]
            assert replace(spec, name=own.name, initialise=own.initialise) == own
            values = (one.initialise(np.random.default_rng(1)) for one in (spec, own))
            np.testing.assert_array_equal(*values, err_msg=spec.name)
            count += 1
    assert count + len(architecture.outer_parameters(config)) == len(table)
