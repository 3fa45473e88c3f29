"""Models refuse to be pickled, and say what to do; states do not."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from rwkv_cy import Config, Model
from rwkv_cy.model.language_model import LanguageModel


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_models(kjv: LanguageModel, duplicate: Callable[[object], object]) -> None:
    for model in (kjv, Model.new(Config(8, 1), 0)):
        name = type(model).__name__
        with pytest.raises(TypeError, match=f"^{name}: models are neither pickled nor copied; .* from its path"):
            duplicate(model)


def test_a_class_may_know_better() -> None:
    """A model that a user's own class makes again, as from its path."""

    class Own(Model):
        def __reduce__(self) -> Any:
            return str, ("made again",)

    own = Own.new(Config(8, 1), 0)
    assert isinstance(own, Own)
    assert copy.deepcopy(own) == "made again"


def test_states(kjv: LanguageModel) -> None:
    _, state = kjv.forward([1, 2])
    assert pickle.loads(pickle.dumps(state)) == copy.copy(state) == copy.deepcopy(state) == state
