"""The learning rate of a step: a linear warm-up, then a cosine."""

from __future__ import annotations

import math

from rwkv_cy.training.options import TrainingOptions

__all__ = ["learning_rate"]


def learning_rate(step: int, options: TrainingOptions) -> float:
    """Return the learning rate of a step.

    Parameters
    ----------
    step : int
        0 for the first update.
    options : TrainingOptions

    Notes
    -----
    RWKV-LM, RWKV-v7/train_temp/src/trainer.py: the warm-up multiplies by 0.01 + 0.99 step / warmup_steps; the cosine
    begins after it.
    """
    first, last = options.learning_rate, options.final_learning_rate
    progress = max(0.0, (step - options.warmup_steps + 1) / max(1, options.steps - options.warmup_steps))
    rate = last + (first - last) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))
    if step < options.warmup_steps:
        rate *= 0.01 + 0.99 * step / options.warmup_steps
    return rate
