"""``rwkv-cy batch``: generates, scores or embeds all records of a file."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkv_cy.cli.arguments import common_options, integer, output_options, real, some_text
from rwkv_cy.cli.embed import POOLINGS
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.model_options import add_text_options, load_text_model
from rwkv_cy.cli.output import is_quiet, print_fields, print_json, print_warning, printable
from rwkv_cy.errors import ConfigError

if TYPE_CHECKING:
    from rwkv_cy.batch import BatchReport, Progress
    from rwkv_cy.batch.task import Task
    from rwkv_cy.batch.workers import Workers
    from rwkv_cy.cli.arguments import Subparsers

__all__ = ["add_parser"]

#: Suffixes of files of records.
_RECORDS = (".jsonl", ".ndjson", ".txt", ".parquet")
TASKS = ("generate", "score", "embed")
#: Options of a single task, by their names in the namespace; without the option, the value is None or False.
_OWN_OPTIONS = {
    "generate": {
        "max_tokens": "--max-tokens",
        "temperature": "--temperature",
        "top_p": "--top-p",
        "top_k": "--top-k",
        "seed": "--seed",
        "stop": "--stop",
        "format": "--format",
        "slots": "--slots",
        "cache": "--cache",
    },
    "score": {"window": "--window", "no_tokens": "--no-tokens"},
    "embed": {"pooling": "--pooling", "normalize": "--normalize"},
}
#: Where a batch runs, and the options of each place.
_PLACE_OPTIONS = {"local": {"processes": "--processes"}, "ray": {"address": "--address", "actors": "--actors"}}
PLACES = tuple(_PLACE_OPTIONS)
MOST_PROCESSES = 1024
_PART = re.compile(r"(\d{1,6})/(\d{1,6})")


def add_parser(commands: Subparsers) -> None:
    """Add ``batch`` to the command's parser."""
    parser = commands.add_parser(
        "batch",
        parents=[common_options()],
        description="Answer every record of a file: continue its prompt, score its text or compute a vector of it. "
        "Answers are written to a folder in files of whole blocks. Run the same command again after a crash, and it "
        "goes on with the blocks that are not complete.",
        examples=[
            "rwkv-cy batch generate model.h5 prompts.jsonl --out answers --max-tokens 32",
            "rwkv-cy batch score model.h5 text.txt --out scores --no-tokens",
            "rwkv-cy batch embed model.h5 text.txt --out vectors --normalize",
        ],
    )
    parser.add_argument("task", metavar="TASK", choices=TASKS, help="generate, score or embed")
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model file or checkpoint")
    parser.add_argument("input", metavar="INPUT", type=Path, help="records: a .jsonl, .txt or .parquet file")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder of the answers")
    parser.add_argument(
        "--block",
        type=integer(1, 1 << 20),
        default=256,
        metavar="N",
        help="rows whose answers are one file (default: 256)",
    )
    parser.add_argument(
        "--max-bad", type=integer(0), default=100, metavar="N", help="end if more than N records are bad (default: 100)"
    )
    parser.add_argument(
        "--part",
        type=_part,
        default=(1, 1),
        metavar="I/N",
        help="every N-th block, from the I-th on: for N runs at once",
    )
    _add_worker_options(parser)
    _add_own_options(parser)
    add_text_options(parser)
    output_options(parser)
    parser.set_defaults(run=_run, parser=parser)


def _add_worker_options(parser: argparse.ArgumentParser) -> None:
    workers = parser.add_argument_group("processes and machines")
    workers.add_argument(
        "--on", choices=PLACES, default=PLACES[0], help="this machine, or a Ray cluster (default: local)"
    )
    workers.add_argument(
        "--processes",
        type=integer(1, MOST_PROCESSES),
        metavar="N",
        help="processes on this machine, pinned to processors; --threads is for each (default: one a NUMA node)",
    )
    workers.add_argument(
        "--address",
        metavar="HOST:PORT|auto",
        help="the cluster; auto for the one that this machine belongs to (default: start Ray on this machine)",
    )
    workers.add_argument(
        "--actors", type=integer(1, 65536), metavar="N", help="processes of the cluster (default: one a node)"
    )


def _add_own_options(parser: argparse.ArgumentParser) -> None:
    generate = parser.add_argument_group("generate", "for records that do not have these fields")
    generate.add_argument("-n", "--max-tokens", type=integer(0), metavar="N", help="generate at most N (default: 256)")
    generate.add_argument("--temperature", type=real(0), metavar="T", help="0 is greedy (default: 1)")
    generate.add_argument("--top-p", type=real(0, 1), metavar="P", help="nucleus (top-p) threshold (default: 0.85)")
    generate.add_argument("--top-k", type=integer(0), metavar="K", help="choose among the K likeliest (default: all)")
    generate.add_argument(
        "-s", "--seed", type=integer(0), metavar="N", help="seeds depend on it and the id (default: 0)"
    )
    generate.add_argument(
        "--stop", type=some_text, action="append", metavar="TEXT", help="stop before TEXT; repeatable"
    )
    generate.add_argument("--format", metavar="auto|world|g1|FILE.jinja", help="prompt format of chats (default: auto)")
    generate.add_argument("--slots", type=integer(1, 4096), metavar="N", help="texts at once (default: 16)")
    generate.add_argument(
        "--cache",
        type=integer(0, 1 << 30),
        metavar="MIB",
        help="most MiB of states of prompts with the same beginning (default: 256)",
    )
    score = parser.add_argument_group("score")
    score.add_argument("--window", type=integer(2), metavar="N", help="restart from the initial state every N tokens")
    score.add_argument("--no-tokens", action="store_true", help="write the sums of each text only")
    embed = parser.add_argument_group("embed")
    embed.add_argument(
        "--pooling", choices=POOLINGS, help="mean of all tokens, or the hidden state after the last (default: mean)"
    )
    embed.add_argument("--normalize", action="store_true", help="scale each vector to length 1")


def _part(text: str) -> tuple[int, int]:
    match = _PART.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected I/N such as 1/4, with I from 1 to N, got {text!r}")
    return int(match[1]), int(match[2])


def _run(arguments: argparse.Namespace) -> int:
    _check_options(arguments)
    from rwkv_cy.batch import Part, run_batch

    task = _task(arguments)
    if arguments.model.suffix.lower() in _RECORDS and arguments.input.suffix.lower() not in _RECORDS:
        raise ConfigError(f"{arguments.model}: expected a model, got the name of records: are MODEL and INPUT swapped?")
    workers = _workers(arguments)
    arguments.mmap |= workers is not None  # here, it is loaded to learn what it is
    model = load_text_model(arguments.model, arguments)
    try:
        with _bar(printable(arguments.input.name), not arguments.no_progress) as progress:
            report = run_batch(
                model,
                arguments.input,
                arguments.out,
                task,
                block_rows=arguments.block,
                max_bad=arguments.max_bad,
                part=Part(*arguments.part),
                path=arguments.model,
                workers=workers,
                progress=progress,
            )
    except KeyboardInterrupt:
        print_warning(f"interrupted: the same command completes {arguments.out}")
        raise
    if report.complete and not report.totals.answers + report.totals.bad:
        print_warning(f"{printable(str(arguments.input))} has no records: nothing was answered")
    if report.totals.bad:
        records = "1 bad record" if report.totals.bad == 1 else f"{report.totals.bad:,} bad records"
        print_warning(f"{records}: {printable(str(arguments.out / 'errors'))} has the ids and the reasons")
    if arguments.json:
        print_json(report.to_dict())
    elif not arguments.quiet:
        print_fields(_fields(report))
    return ExitCode.REFUSED if report.totals.bad and not report.totals.answers else ExitCode.OK


def _check_options(arguments: argparse.Namespace) -> None:
    """End with a usage error if there is an option of another task or place."""
    for chosen, groups in ((arguments.task, _OWN_OPTIONS), (arguments.on, _PLACE_OPTIONS)):
        for group, options in groups.items():
            for name, option in options.items():
                value = getattr(arguments, name)
                if group != chosen and value is not None and value is not False:
                    arguments.parser.error(f"{option} is for {group}, not for {chosen}; leave it out")


def _task(arguments: argparse.Namespace) -> Task:
    from rwkv_cy.batch import EmbedTask, GenerateTask, ScoreTask

    if arguments.task == "score":
        return ScoreTask(arguments.window, logprobs=not arguments.no_tokens)
    if arguments.task == "embed":
        return EmbedTask(arguments.pooling or POOLINGS[0], arguments.normalize)
    given: dict[str, Any] = {
        name: value
        for name in ("max_tokens", "seed", "format", "slots")
        if (value := getattr(arguments, name)) is not None
    }
    if arguments.cache is not None:
        given["cache_bytes"] = arguments.cache << 20
    sampling = {
        name: value for name in ("temperature", "top_p", "top_k") if (value := getattr(arguments, name)) is not None
    }
    return GenerateTask(stop=tuple(arguments.stop or ()), sampling=sampling, **given)


def _workers(arguments: argparse.Namespace) -> Workers | None:
    """Return who works on the blocks; None for this process alone."""
    options = {name: getattr(arguments, name) for name in ("dtype", "tokenizer", "activations")}
    if arguments.on == "ray":
        from rwkv_cy.batch.on_ray import RayActors

        options["mmap"] = arguments.mmap
        return RayActors(arguments.model, arguments.address, arguments.actors, arguments.threads, **options)
    from rwkv_cy.batch import LocalProcesses

    mmap = None if arguments.mmap else False
    processes = LocalProcesses(arguments.model, arguments.processes, arguments.threads, mmap, **options)
    return processes if processes.count > 1 else None


@contextmanager
def _bar(label: str, enabled: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Yield what shows the progress: records and tokens a second, and the time left; None without a terminal."""
    if not (enabled and sys.stderr.isatty()) or is_quiet():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=label, unit=" records", file=sys.stderr, leave=False, mininterval=0, miniters=1) as bar:

        def show(progress: Progress) -> None:
            if bar.total is None:  # the speed is that of this run
                bar.total = progress.total_rows
                bar.initial = bar.n = progress.rows - progress.records
            bar.set_postfix_str(f"{progress.tokens_per_second:,.0f} tokens/s", refresh=False)
            bar.update(progress.rows - bar.n)

        yield show


def _fields(report: BatchReport) -> dict[str, str]:
    totals = report.totals
    fields = {
        "folder": str(report.folder),
        "blocks": f"{report.blocks:,} of {report.total_blocks:,}",
        "records": f"{totals.answers:,} answered, {totals.bad:,} bad",
        "tokens": f"{totals.read_tokens:,} read, {totals.generated_tokens:,} generated",
    }
    if report.perplexity is not None:
        fields["perplexity"] = f"{report.perplexity:.6g}"
        fields["bits per byte"] = "unknown" if report.bits_per_byte is None else f"{report.bits_per_byte:.6g}"
    speed = f", {report.run_tokens / report.seconds:,.0f} tokens/s" if report.run_tokens else ""
    fields["this run"] = f"{report.run_records:,} records in {report.seconds:.1f} s{speed}"
    return fields
