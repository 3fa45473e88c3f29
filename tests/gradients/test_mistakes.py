"""Wrong arguments of recorded passes and of tapes."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.architectures.base import Architecture
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, KernelError, StateError, TokenError, UnsupportedError
from rwkv_cy.kernels.gradient import StackGradient
from rwkv_cy.kernels.matrix import Workspace
from rwkv_cy.model.encoder import Model
from rwkv_cy.model.language_model import LanguageModel

CONFIG = Config(d_model=8, num_layers=2, vocab_size=11)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel.new(CONFIG, 0)


def test_inputs(model: LanguageModel) -> None:
    with pytest.raises(TokenError, match="tokens is empty"):
        model.record([])
    with pytest.raises(TokenError, match=r"sequence 1: tokens\[0\]: expected an id from 0 to 10, got 11"):
        model.record([[1], [11]])
    with pytest.raises(ConfigError, match="expected 2 states, one for each sequence, got 1"):
        model.record([[1], [2]], [None])
    with pytest.raises(ConfigError, match=r"trainable: expected names .* got 'head', which matches none"):
        model.record([1], trainable="head")
    for wrong in (3, [3]):
        with pytest.raises(ConfigError, match="trainable: expected a name or pattern of parameters, .* got int 3"):
            model.record([1], trainable=wrong)  # type: ignore[arg-type]
    for memory in (-1, "400 MB", True):
        with pytest.raises(ConfigError, match=rf"memory: expected a number of bytes, 0 or more, got {memory!r}"):
            model.record([1], memory=memory)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least one vector in each sequence"):
        model.encoder.record(np.zeros((0, 8)))
    with pytest.raises(ConfigError, match=r"record: expected numbers of shape \(time, d_model\)"):
        model.encoder.record(np.zeros((2, 9)))


def test_gradients_of_outputs(model: LanguageModel) -> None:
    ys, _, tape = model.encoder.record(np.ones((3, 8)))
    with pytest.raises(ConfigError, match="d_ys: expected 3 rows for sequence 0, got 2"):
        tape.backward(ys[:2])
    with pytest.raises(StateError, match="d_state: expected a State of shape"):
        tape.backward(ys, np.zeros((2, 40)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"parameters\['blocks.0.ln0.weight'\]: expected a contiguous array"):
        tape.backward(ys, parameters={})
    _, _, batch = model.encoder.record([np.ones((3, 8)), np.ones((1, 8))])
    with pytest.raises(ConfigError, match="d_ys: expected 2 arrays, one for each sequence, got 1"):
        batch.backward([ys])
    with pytest.raises(ConfigError, match="d_state: expected 2 states, one for each sequence, got 1"):
        batch.backward([ys, ys[:1]], [None])


def test_targets(model: LanguageModel) -> None:
    logits, _, tape = model.record([1, 2, 3])
    with pytest.raises(ConfigError, match=r"d_ys: expected arrays \(tokens, 11\)"):
        tape.backward(logits[:2])
    with pytest.raises(ConfigError, match="targets: expected one for each of"):
        tape.cross_entropy([1, 2])
    with pytest.raises(ConfigError, match="weights: expected one for each of"):
        tape.cross_entropy([1, 2, 3], [1.0])
    with pytest.raises(TokenError, match=r"targets\[2\]: expected an id from 0 to 10, got 11"):
        tape.cross_entropy([1, 2, 11])


def test_a_closed_model() -> None:
    model = LanguageModel.new(CONFIG, 0)
    model.close()
    with pytest.raises(ConfigError, match="expected an open model"):
        model.record([1])


def test_a_version_without_a_backward_pass() -> None:
    with pytest.raises(UnsupportedError, match="RWKV-4: gradients are not supported for this version"):
        Architecture.gradients(ARCHITECTURES["rwkv4"], CONFIG, 0, None, None)


def test_arrays_of_the_kernel(model: LanguageModel) -> None:
    from rwkv_cy.model.tape import EncoderGradient

    stack: StackGradient = EncoderGradient(Model.new(CONFIG, 0)).stack
    x, state, starts = np.zeros((2, 8), np.float32), np.zeros((2, 40), np.float32), np.array([0, 2], np.intp)
    after, own = state.copy(), Workspace()
    with pytest.raises(KernelError, match="expected numbers of 4 bytes"):
        stack.record(x.astype(np.float64), [state], [after], starts, Workspace(), 1)
    with pytest.raises(KernelError, match="starts from 0 to 2"):
        stack.record(x, [state], [after], np.array([0, 1], np.intp), Workspace(), 1)
    with pytest.raises(KernelError, match="at least one token in sequence 1"):
        stack.record(x, [state] * 2, [after] * 2, np.array([0, 2, 2], np.intp), Workspace(), 1)
    with pytest.raises(KernelError, match="expected 1 states"):
        stack.record(x, [], [after], starts, Workspace(), 1)
    with pytest.raises(KernelError, match="contiguous states"):
        stack.record(x, [state[:1]], [after], starts, Workspace(), 1)
    stack.record(x, [state], [after], starts, Workspace(), 1, own)
    with pytest.raises(KernelError, match="gradients"):
        stack.backward(x, [state], [after], starts, Workspace(), 1, own, [[], []])
    with pytest.raises(KernelError, match="bytes of a recorded pass"):
        stack.backward(x, [state], [after], starts, Workspace(), 1, Workspace(), [[], []])
