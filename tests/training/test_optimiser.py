"""The optimiser, its groups and the schedule, against formulas in float64 and against torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_cy.errors import ConfigError
from rwkv_cy.training.adamw import AdamW
from rwkv_cy.training.groups import Group, group_of
from rwkv_cy.training.options import TrainingOptions
from rwkv_cy.training.schedule import learning_rate

Array = npt.NDArray[Any]
SHAPES = {"blocks.0.att.key.weight": (40, 30), "blocks.0.ln1.weight": (30,), "blocks.0.att.w0": (1, 1, 30)}


def options(**values: Any) -> TrainingOptions:
    return TrainingOptions(**({"steps": 100, "weight_decay": 0.1} | values))


def arrays(seed: int, dtype: Any = np.float64) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def test_groups() -> None:
    assert group_of("blocks.3.att.key.weight", (8, 8)) == Group(decay=True)
    assert group_of("emb.weight", (256, 8)) == Group(decay=True)
    assert group_of("blocks.3.ln1.weight", (8,)) == Group()
    assert group_of("blocks.3.att.w1", (8, 4)) == Group()
    assert group_of("blocks.3.att.w0", (1, 1, 8)) == Group(rate=2.0)
    assert group_of("blocks.3.att.time_decay", (8,)) == Group(rate=2.0)
    assert group_of("blocks.3.att.time_first", (8,)) == Group(rate=3.0)
    assert group_of("blocks.3.att.time_mix_k", (1, 1, 8)) == Group()


def reference(values: dict[str, Array], steps: int, o: TrainingOptions) -> dict[str, Array]:
    first, second = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    for step in range(1, steps + 1):
        gradients = {name: 3 * array for name, array in arrays(step).items()}
        norm = math.sqrt(sum(float((array**2).sum()) for array in gradients.values()))
        for name, gradient in gradients.items():
            g, group = gradient * min(1, o.clip / (norm + 1e-6)), group_of(name, SHAPES[name])
            first[name] = o.beta1 * first[name] + (1 - o.beta1) * g
            second[name] = o.beta2 * second[name] + (1 - o.beta2) * g * g
            rate = 1e-2 * group.rate
            mean, square = first[name] / (1 - o.beta1**step), second[name] / (1 - o.beta2**step)
            values[name] = values[name] * (1 - rate * o.weight_decay * group.decay)
            values[name] = values[name] - rate * mean / (np.sqrt(square) + o.epsilon)
    return values


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_adamw_follows_the_formula(dtype: Any, tolerance: float) -> None:
    values = arrays(0, dtype)
    optimiser = AdamW(values, options())
    for step in range(1, 6):
        gradients = {name: (3 * array).astype(dtype) for name, array in arrays(step).items()}
        norm = optimiser.step(gradients, 1e-2, num_threads=step)
        assert norm == pytest.approx(math.sqrt(sum(float((a**2).sum()) for a in gradients.values())), rel=1e-6)
    for name, expected in reference(arrays(0), 5, options()).items():
        assert np.abs(values[name] - expected).max() < tolerance


@pytest.mark.oracle
def test_adamw_equals_torch() -> None:
    import torch

    o, values = options(clip=1e9), arrays(0)
    theirs = {name: torch.nn.Parameter(torch.tensor(array.copy())) for name, array in values.items()}
    groups = [
        {"params": [p], "lr": 1e-2 * group_of(name, p.shape).rate, "weight_decay": 0.1 * group_of(name, p.shape).decay}
        for name, p in theirs.items()
    ]
    torch_optimiser = torch.optim.AdamW(groups, betas=(o.beta1, o.beta2), eps=o.epsilon)
    optimiser = AdamW(values, o)
    for step in range(1, 8):
        gradients = arrays(step)
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradients[name])
        torch_optimiser.step()
        optimiser.step(gradients, 1e-2)
    for name, parameter in theirs.items():
        assert np.abs(values[name] - parameter.detach().numpy()).max() < 1e-13


def test_threads_do_not_change_a_bit_and_zero_gradients_change_nothing() -> None:
    rng = np.random.default_rng(0)
    start = rng.standard_normal((3000, 500)).astype(np.float32)
    gradient = rng.standard_normal(start.shape).astype(np.float32)
    gradient[:, :100] = 0
    results = []
    for threads in (1, 2, 5):
        values = {"x.weight": start.copy()}
        AdamW(values, options(weight_decay=0)).step({"x.weight": gradient}, 1e-3, num_threads=threads)
        results.append(values["x.weight"])
    assert all(np.array_equal(results[0], other) for other in results[1:])
    assert np.array_equal(results[0][:, :100], start[:, :100])
    assert np.isfinite(results[0]).all()


def test_a_gradient_that_is_not_finite_is_skipped() -> None:
    values = arrays(0)
    optimiser = AdamW(values, options())
    gradients = arrays(1)
    gradients["blocks.0.att.w0"][0, 0, 3] = np.inf
    assert math.isinf(optimiser.step(gradients, 1.0))
    assert optimiser.steps == 0
    assert all(np.array_equal(values[name], array) for name, array in arrays(0).items())


def test_the_schedule_rises_and_falls() -> None:
    o = options(steps=110, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.1)
    rates = [learning_rate(step, o) for step in range(110)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10] == pytest.approx(1, abs=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert learning_rate(0, options(warmup_steps=0, steps=1, learning_rate=1.0)) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps: expected 1 to 1,000,000,000, got 0"),
        ({"context": 1}, "context: expected 2 to"),
        ({"learning_rate": math.nan}, "learning_rate: expected 0 to 10, got nan"),
        ({"batch_size": 2.5}, "batch_size: expected an integer, got 2.5"),
        ({"sampling": "lines"}, "sampling: expected one of windows, documents, got 'lines'"),
        ({"clip": "1"}, "clip: expected a number, got '1'"),
    ],
)
def test_options_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(**values)


def test_options_as_json() -> None:
    given = options(seed=7, sampling="documents")
    assert TrainingOptions.from_dict(given.to_dict()) == given
    with pytest.raises(ConfigError, match="differ in \\['seed'\\]"):
        TrainingOptions.from_dict({key: value for key, value in given.to_dict().items() if key != "seed"})
