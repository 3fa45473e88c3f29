"""Passes over parts of many texts: what they refuse, and what they say about NaN."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.errors import ConfigError, KernelError
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.model.passes import Part


def part(model: LanguageModel, tokens: bytes, wanted: int = 1, planes: int = 0) -> Part:
    initial = model.encoder.numbers(None)
    shape = (planes, *initial.shape) if planes else initial.shape
    return Part(np.array(list(tokens), np.int64), initial, np.empty(shape, initial.dtype), wanted)


def test_nothing_to_run(kjv: LanguageModel) -> None:
    assert kjv.passes.run([]) == []


def test_as_many_states_as_tokens(kjv: LanguageModel) -> None:
    with pytest.raises(KernelError, match="Stack: expected 3 states, one after each token of sequence 1, and outputs"):
        kjv.passes.run([part(kjv, b"a"), part(kjv, b"abc", planes=2)])


def test_states_after_each_token_without_logits(kjv: LanguageModel) -> None:
    each = part(kjv, b"abc", 0, planes=3)
    assert kjv.passes.run([each])[0].shape == (0, 256)
    assert each.write[1].tobytes() == kjv.forward(list(b"ab"))[1].data.tobytes()


def test_a_closed_model(kjv_checkpoint: object) -> None:
    model = load(kjv_checkpoint)  # type: ignore[arg-type]
    model.close()
    with pytest.raises(ConfigError, match="expected an open model"):
        model.passes.run([part(model, b"a")])


def test_where_nan_comes_from(kjv: LanguageModel) -> None:
    each = part(kjv, b"ab")
    bad = Part(each.ids, np.full_like(each.read, np.nan), each.write)
    (rows,) = kjv.passes.run([bad])
    assert np.isnan(rows).any()
    assert kjv.passes.describe(bad).startswith("expected a finite state, got NaN or infinity in it")
