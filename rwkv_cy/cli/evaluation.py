"""``rwkv-cy eval``: scores of a model by the tasks of lm-eval."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import common_options, integer, output_options
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.model_options import add_text_options, load_text_model
from rwkv_cy.cli.output import print_json, print_table
from rwkv_cy.errors import StorageError

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add ``eval`` to the command's parser."""
    parser = commands.add_parser(
        "eval",
        parents=[common_options()],
        description="Run tasks of lm-eval (EleutherAI's evaluation harness) and print their metrics. Contexts run "
        "once, and what several of them begin with once for all.",
        examples=[
            "rwkv-cy eval model.h5 --tasks lambada_openai,piqa",
            "rwkv-cy eval model.h5 --tasks mine --include my_tasks --num-fewshot 5 --json",
        ],
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model file or checkpoint")
    parser.add_argument(
        "--tasks", required=True, metavar="NAME,...", help="tasks or groups of lm-eval, or patterns such as mmlu_*"
    )
    parser.add_argument("--include", metavar="FOLDER", type=Path, help="a folder with definitions of more tasks")
    parser.add_argument(
        "--num-fewshot", type=integer(0), metavar="N", help="examples before each question (default: the task's)"
    )
    parser.add_argument("--limit", type=integer(1), metavar="N", help="use the first N documents of each task only")
    add_text_options(parser)
    output_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.include is not None and not arguments.include.is_dir():
        raise StorageError(f"{arguments.include}: expected a folder with definitions of tasks")
    model = load_text_model(arguments.model, arguments)  # a wrong name is told before a missing library
    from rwkv_cy.integrations.evaluation import evaluate

    report = evaluate(
        model,
        [name.strip() for name in arguments.tasks.split(",") if name.strip()],
        include=arguments.include,
        num_fewshot=arguments.num_fewshot,
        limit=arguments.limit,
        num_threads=arguments.threads,
    )
    if arguments.json:
        print_json(report.to_dict())
        return ExitCode.OK
    rows = (
        (score.task, score.metric, score.filter, _number(score.value), _number(score.stderr)) for score in report.scores
    )
    print_table(("task", "metric", "filter", "value", "stderr"), rows)
    return ExitCode.OK


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
