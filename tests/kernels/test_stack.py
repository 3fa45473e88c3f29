"""Stacks of layers: batches of sequences, states by address, last_only, and errors."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest

from kernels.test_rwkv4 import Case, forward, make_layer
from rwkv_cy.dtypes import QUANTIZED_TYPES, to_storage
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.matrix import Workspace, pack
from rwkv_cy.kernels.stack import Stack
from rwkv_cy.tensors.tensor import Parameter

WIDE = {"d_model": 64, "d_att": 80, "d_ffn": 200}
States = list[np.ndarray]


def bounds(lengths: list[int]) -> np.ndarray:
    """Return where sequences of these lengths begin, and the end."""
    return np.cumsum([0, *lengths], dtype=np.intp)


def run(
    stack: Stack, xs: np.ndarray, states: States, lengths: list[int], threads: int = 1, *, last_only: bool = False
) -> tuple[np.ndarray, States]:
    """Run sequences through a stack into new states; return the outputs and the states."""
    y, after = xs.copy(), [np.full_like(state, np.nan) for state in states]
    stack.forward(y, states, after, bounds(lengths), Workspace(), threads, last_only)
    return y, after


def same(some: States, others: States) -> bool:
    """Tell whether two lists of states are equal to the last bit."""
    return [state.tobytes() for state in some] == [state.tobytes() for state in others]


def stack_of(real: str, layers: int) -> tuple[list[Case], Stack]:
    """Return the cases of some layers, and the stack of them."""
    cases = [Case(real, i, **WIDE) for i in range(layers)]
    return cases, Stack([case.layer for case in cases])


def random_states(cases: list[Case], count: int) -> States:
    """Return states of a stack of these layers."""
    return [np.array([case.state().data for case in cases]) for _ in range(count)]


def test_in_place_and_into_another_state_give_the_same(isa: str, real: str) -> None:
    cases, stack = stack_of(real, 2)
    lengths = [1, 40, 2]
    xs, states = cases[0].xs(sum(lengths)), random_states(cases, 3)
    before = [state.copy() for state in states]
    for last_only in (False, True):
        y, after = run(stack, xs, states, lengths, last_only=last_only)
        assert same(states, before)
        in_place = [state.copy() for state in states]
        again = xs.copy()
        stack.forward(again, in_place, in_place, bounds(lengths), Workspace(), 1, last_only)
        assert same(in_place, after)
        last = bounds(lengths)[1:] - 1
        assert again[last].tobytes() == y[last].tobytes()


def test_one_state_is_read_by_several_sequences(real: str) -> None:
    cases, stack = stack_of(real, 2)
    xs, (state,) = cases[0].xs(4), random_states(cases, 1)
    y, after = run(stack, xs, [state] * 4, [1] * 4)
    for i in range(4):
        one, (alone,) = run(stack, xs[i : i + 1], [state], [1])
        assert one.tobytes() == y[i].tobytes()
        assert alone.tobytes() == after[i].tobytes()


def test_sequences_side_by_side_equal_each_alone(isa: str, real: str) -> None:
    cases, stack = stack_of(real, 1)
    lengths = [1, 7, 30, 1, 2]
    xs, states = cases[0].xs(sum(lengths)), random_states(cases, len(lengths))
    starts = bounds(lengths)
    alone = [run(stack, xs[starts[i] : starts[i + 1]], [states[i]], [n]) for i, n in enumerate(lengths)]
    for threads in (1, 3):
        y, after = run(stack, xs, states, lengths, threads)
        assert y.tobytes() == np.concatenate([part for part, _ in alone]).tobytes()
        assert same(after, [state for _, (state,) in alone])


def test_matrices_of_several_kinds_in_one_layer(isa: str) -> None:
    # Products that share an operation go by rows, columns, groups and panels.
    lengths = [1, 30, 1, 1, 7]
    kinds = [
        ("f32", False),
        ("bf16", True),
        ("q8", False),
        ("q4", False),
        ("bf16", False),
        ("f16", True),
        ("f32", True),
    ]
    case = Case("f32", d_model=65, d_att=100, d_ffn=200)
    matrices = [name for name, array in case.weights.items() if name.endswith(".weight") and array.ndim == 2]
    assert len(matrices) == len(kinds)
    for turn in range(len(kinds)):
        parameters = {name: Parameter(array, "f32") for name, array in case.weights.items()}
        for name, (kind, transposed) in zip(matrices, kinds[turn:] + kinds[:turn], strict=True):
            array = case.weights[name]
            if kind in QUANTIZED_TYPES:
                parameters[name] = Parameter(pack(array, kind), kind, array.shape)
            else:
                stored = to_storage(np.ascontiguousarray(array.T) if transposed else array, "f32", kind)
                parameters[name] = Parameter(stored, kind, transposed=transposed)
        stack = Stack([make_layer(case.config, 0, parameters, 0.5)])
        for some in (lengths[2:], lengths, [1] * 12):
            xs, states, starts = case.xs(sum(some)), random_states([case], len(some)), bounds(some)
            single, single_states = xs.copy(), [state.copy() for state in states]
            for i, state in enumerate(single_states):
                for t in range(starts[i], starts[i + 1]):
                    stack.forward(single[t : t + 1], [state], [state], bounds([1]), Workspace(), 1)
            for threads in (1, 3):
                many, after = run(stack, xs, states, some, threads)
                assert many.tobytes() == single.tobytes()
                assert same(after, single_states)


def test_a_stack_equals_its_layers_one_by_one(isa: str, real: str) -> None:
    cases, stack = stack_of(real, 2)
    (state,) = random_states(cases, 1)
    for tokens in (1, 9):
        xs, rows = cases[0].xs(tokens), state.copy()
        expected = xs.copy()
        for case, row in zip(cases, rows, strict=True):
            forward(case.layer, expected, row, Workspace(), 1)
        for threads in (1, 2, 3):
            y, after = run(stack, xs, [state], [tokens], threads)
            assert y.tobytes() == expected.tobytes()
            assert same(after, [rows])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lengths", [[40], [1, 70, 2, 3, 33], [33], [34], [35], [2] * 40, [512]])
def test_the_last_tokens_alone_are_the_same(isa: str, real: str, layers: int, lengths: list[int]) -> None:
    cases, stack = stack_of(real, layers)
    xs, states, last = cases[0].xs(sum(lengths)), random_states(cases, len(lengths)), bounds(lengths)[1:] - 1
    expected, expected_states = run(stack, xs, states, lengths)
    for threads in (1, 3):
        y, after = run(stack, xs, states, lengths, threads, last_only=True)
        assert y[last].tobytes() == expected[last].tobytes()
        assert same(after, expected_states)


def test_the_last_layer_leaves_out_what_no_result_needs() -> None:
    case = Case("f32", 1)
    xs = case.xs(80)
    y, _ = run(Stack([case.layer]), xs, random_states([case], 1), [80], last_only=True)
    assert y[:-1].tobytes() == xs[:-1].tobytes()
    assert y[-1].tobytes() != xs[-1].tobytes()


def test_layers_that_do_not_fit_each_other() -> None:
    with pytest.raises(KernelError, match="Stack: expected layers of one width, state and type, got"):
        Stack([Case("f32").layer, Case("f32", 1, d_att=32).layer])
    with pytest.raises(KernelError, match=r"Stack: expected layers of one width, state and type, got \[\]"):
        Stack([])
    with pytest.raises(KernelError, match="Stack: expected layers, got NoneType"):
        Stack([None])
    with pytest.raises(KernelError, match="Stack: expected layers, got TimeMix"):
        Stack([Case("f32").time_mix])


def test_starts_that_do_not_fit() -> None:
    case = Case("f32")
    xs, states, workspace = case.xs(4), random_states([case], 2), Workspace()
    stack = Stack([case.layer])
    before = [state.copy() for state in states]
    for starts in ([0, 4], [0, 2, 5], [1, 2, 4], [0, 2, 3, 4]):
        with pytest.raises(KernelError, match="Stack: expected states to read and to write, and starts from 0 to 4"):
            stack.forward(xs, states, states, np.array(starts, np.intp), workspace, 1)
    with pytest.raises(KernelError, match=r"of as many sequences; got 2, 1, \[0, 2, 4\]"):
        stack.forward(xs, states, states[:1], bounds([2, 2]), workspace, 1)
    for starts in ([0, 4, 4], [0, 0, 4]):
        with pytest.raises(KernelError, match="Stack: expected at least one token in sequence [01], got none"):
            stack.forward(xs, states, states, np.array(starts, np.intp), workspace, 1)
    stack.forward(xs[:0], [], [], np.zeros(1, np.intp), workspace, 1)
    assert same(states, before)


def test_what_is_refused() -> None:
    case = Case("f32")
    state, workspace = case.state().data, Workspace()
    with pytest.raises(KernelError, match=r"Stack: expected x \(tokens, 20\), got \(1, 8\)"):
        forward(case.layer, np.zeros((1, 8), np.float32), state, workspace, 1)
    with pytest.raises(KernelError, match="Stack: expected numbers of 4 bytes, got 8"):
        forward(case.layer, np.zeros((1, 20)), state.astype(np.float64), workspace, 1)
    with pytest.raises(KernelError, match=r"Stack: expected states \(1, 112\), got \(1, 111\) and \(1, 111\)"):
        forward(case.layer, case.xs(1), state[1:].copy(), workspace, 1)
    with pytest.raises(ValueError, match="not C-contiguous"):
        forward(case.layer, case.xs(1), np.zeros(224, np.float32)[::2], workspace, 1)
    with pytest.raises(ValueError, match="Buffer dtype mismatch"):
        forward(case.layer, case.xs(1), state.astype(np.float64), workspace, 1)
    with pytest.raises(KernelError, match="Stack: expected at least one thread, got 0"):
        forward(case.layer, np.zeros((9, 20), np.float32), state, workspace, 0)
    with pytest.raises(TypeError, match="Argument 'workspace' has incorrect type"):
        forward(case.layer, np.zeros((9, 20), np.float32), state, None, 1)
    for mix, name in ((case.time_mix, "TimeMix"), (case.channel_mix, "ChannelMix")):
        with pytest.raises(KernelError, match=rf"{name}: expected \(tokens, 20\), got \(1, 8\)"):
            mix.forward(np.zeros((1, 8), np.float32), state)
        with pytest.raises(KernelError, match=f"{name}: expected a row of 112 elements of state, got 111"):
            mix.forward(np.zeros((1, 20), np.float32), state[1:])
        with pytest.raises(KernelError, match=f"{name}: expected numbers of 4 bytes, got 8"):
            mix.forward(np.zeros((1, 20)), state.astype(np.float64))
        with pytest.raises(KernelError, match=f"{name}: expected at least one thread, got -1"):
            mix.forward(np.zeros((9, 20), np.float32), state, -1)
        with pytest.raises(KernelError, match=rf"{name}: expected shared activations \(1, 0\) of float32, contiguous"):
            mix.forward(np.zeros((1, 20), np.float32), state, 1, np.zeros(2, np.float32))


def test_an_empty_sequence_of_a_mix() -> None:
    case = Case("f32")
    state = case.state().data
    before = state.copy()
    for mix in (case.time_mix, case.channel_mix):
        assert mix.forward(np.empty((0, 20), np.float32), state).shape == (0, 20)
    assert (state == before).all()


def test_a_signal_does_not_wait_for_all_layers() -> None:
    class HandledError(Exception):
        pass

    def handle(number: int, frame: object) -> None:
        raise HandledError

    case = Case("f32")
    layers, xs = 10_000, case.xs(50)
    stack = Stack([case.layer] * layers)
    state = np.repeat(case.state().data[np.newaxis], layers, axis=0)
    untouched = state[-1].copy()
    first, main = state[0].copy(), threading.get_ident()

    def interrupt_after_one_layer() -> None:
        while (state[0] == first).all():
            pass
        signal.pthread_kill(main, signal.SIGALRM)

    interrupter = threading.Thread(target=interrupt_after_one_layer, daemon=True)
    before = signal.signal(signal.SIGALRM, handle)
    try:
        interrupter.start()
        with pytest.raises(HandledError):
            stack.forward(xs, [state], [state], bounds([50]), Workspace(), 1)
        interrupter.join()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert state[-1].tobytes() == untouched.tobytes()
