"""Batch: generates, scores or embeds all records of a file, into a folder that a later run completes."""

from __future__ import annotations

from rwkv_cy.batch.embed import EmbedTask
from rwkv_cy.batch.generate import GenerateTask
from rwkv_cy.batch.processes import LocalProcesses
from rwkv_cy.batch.report import BatchReport, Progress
from rwkv_cy.batch.run import Part, run_batch
from rwkv_cy.batch.score import ScoreTask
from rwkv_cy.batch.worker import BatchWorker

__all__ = [
    "BatchReport",
    "BatchWorker",
    "EmbedTask",
    "GenerateTask",
    "LocalProcesses",
    "Part",
    "Progress",
    "ScoreTask",
    "run_batch",
]
