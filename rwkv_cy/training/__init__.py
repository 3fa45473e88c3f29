"""Training on the CPU: new models, adapters and tuned states, from text files."""

from __future__ import annotations

from rwkv_cy.training.options import TrainingOptions
from rwkv_cy.training.run import TrainingReport, train, tune
from rwkv_cy.training.trainer import Step, Trainer

__all__ = ["Step", "Trainer", "TrainingOptions", "TrainingReport", "train", "tune"]
