"""Runs the campaigns of faults and of damage: ``make test-faults``.

python -m faults moments|runs|damage [--most N] [--flips N] [--only NAME]... [--json] [--write PAGE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from faults import preload
from faults.table import CampaignRow, DamageRow, RunRow, damage_table, moments_table, replace_between, runs_table

#: Moments at which each run is killed.
_RUN_MOMENTS = 50
_HAVE_FAULTS = os.environ.get("LD_PRELOAD", "").endswith(preload.LIBRARY)


def main() -> int:
    """Run a campaign, and print or write what came of it; return 1 if there is a problem."""
    parser = argparse.ArgumentParser(prog="faults", description="Break every operation, and every file.")
    parser.add_argument("campaign", choices=["moments", "runs", "damage"])
    parser.add_argument(
        "--most", type=int, help="at most so many moments of an operation or a run, or changes of a file"
    )
    parser.add_argument("--flips", type=int, help="at most so many flipped bits of a file")
    parser.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="an operation, a fault, a run or a format"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", metavar="PAGE", type=Path, help="put the table into a page of the documentation")
    arguments = parser.parse_args()
    _check_names(parser, arguments.only, arguments.campaign)
    rows: Sequence[CampaignRow | RunRow | DamageRow]
    if arguments.campaign == "damage":
        rows = _damage(arguments)
        table = damage_table([row for row in rows if isinstance(row, DamageRow)])
    elif arguments.campaign == "runs":
        rows = _runs(arguments) if _HAVE_FAULTS else _runs_elsewhere(arguments)
        table = runs_table([row for row in rows if isinstance(row, RunRow)])
    else:
        rows = _moments(arguments) if _HAVE_FAULTS else _moments_elsewhere(arguments)
        table = moments_table([row for row in rows if isinstance(row, CampaignRow)])
    if arguments.write is not None:
        some = arguments.campaign == "damage" and bool(arguments.only)
        replace_between(arguments.write, arguments.campaign, table, rows_only=some)
    print(json.dumps([asdict(row) for row in rows]) if arguments.json else table)
    problems = [problem for row in rows for problem in row.problems]
    return 1 if problems or not rows else 0


def _check_names(parser: argparse.ArgumentParser, only: Sequence[str], campaign: str) -> None:
    """End the command with an error if a name of ``--only`` is not one of the campaign's."""
    if not only:
        return
    known = _NAMES[campaign]()
    unknown = [name for name in only if name not in known]
    if unknown:
        parser.error(f"argument --only: {campaign} has not {unknown[0]!r}; choose from {', '.join(known)}")


def _names_of_moments() -> list[str]:
    from faults.campaigns import CAMPAIGNS
    from faults.operations import OPERATIONS

    return [item.name for item in (*OPERATIONS, *CAMPAIGNS)]


def _names_of_runs() -> list[str]:
    from faults.runs import RUNS

    return [run.name for run in RUNS]


def _names_of_damage() -> list[str]:
    from faults.specimens import SPECIMENS

    names = []
    for make in SPECIMENS:
        with TemporaryDirectory(dir=_fast_folder()) as folder:
            names.append(make(Path(os.path.realpath(folder))).name)
    return names


_NAMES = {"moments": _names_of_moments, "runs": _names_of_runs, "damage": _names_of_damage}


def _moments_elsewhere(arguments: argparse.Namespace) -> list[CampaignRow]:
    from faults.campaigns import CAMPAIGNS
    from faults.operations import OPERATIONS

    operations = [operation.name for operation in _chosen(OPERATIONS, arguments.only)]
    words = [word for name in arguments.only if name not in operations for word in ("--only", name)]
    rows = {campaign.name: CampaignRow(campaign.name, campaign.promise) for campaign in CAMPAIGNS}
    for row in _elsewhere(arguments, operations, words):
        rows[row["name"]].merge(CampaignRow(**row))
    return [row for row in rows.values() if row.moments or row.problems or row.refused]


def _runs_elsewhere(arguments: argparse.Namespace) -> list[RunRow]:
    from faults.runs import RUNS

    names = [run.name for run in _chosen(RUNS, arguments.only)]
    rows = {row["name"]: RunRow(**row) for row in _elsewhere(arguments, names, [])}
    return [rows[name] for name in names]


def _elsewhere(arguments: argparse.Namespace, names: Sequence[str], words: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield rows of processes that have the library of faults loaded, one a core; each has some of the names."""
    words = [arguments.campaign, *words, *(() if arguments.most is None else ("--most", str(arguments.most)))]
    count = min(os.cpu_count() or 1, len(names))
    with TemporaryDirectory() as folder, ThreadPoolExecutor(count) as pool:
        library = preload.compile_library(Path(folder))
        shares = [[word for name in names[i::count] for word in ("--only", name)] for i in range(count)]
        commands = [[*words, *share, "--json"] for share in shares]
        for done in pool.map(lambda command: preload.run_with_faults(library, "faults", *command), commands):
            if not done.stdout:
                raise SystemExit(f"the campaigns ended with {done.returncode}")
            yield from json.loads(done.stdout)


def _moments(arguments: argparse.Namespace) -> list[CampaignRow]:
    from faults.campaigns import CAMPAIGNS
    from faults.moments import Bench
    from faults.operations import OPERATIONS, make_sources

    rows = {campaign.name: CampaignRow(campaign.name, campaign.promise) for campaign in CAMPAIGNS}
    operations = _chosen(OPERATIONS, arguments.only)
    for operation in operations:
        with TemporaryDirectory(dir=_fast_folder()) as name:
            folder = Path(os.path.realpath(name))
            (folder / "source").mkdir()
            with contextlib.redirect_stdout(sys.stderr):
                make_sources(folder / "source")
            bench = Bench(operation, folder)
            for campaign in _chosen(CAMPAIGNS, arguments.only):
                outcome = campaign.run(bench, min(campaign.moments, arguments.most or campaign.moments))
                row = rows[campaign.name]
                row.problems += _told(bench.problems)
                bench.problems.clear()
                if outcome is None:
                    row.refused = True
                    continue
                print(f"{operation.name}: {campaign.name}: {dict(outcome.left)}", file=sys.stderr, flush=True)
                row.add(outcome.moments, outcome.left)
    return [row for row in rows.values() if row.moments or row.problems or row.refused]


def _runs(arguments: argparse.Namespace) -> list[RunRow]:
    from faults.runs import RUNS, survive

    rows = []
    for run in _chosen(RUNS, arguments.only):
        with TemporaryDirectory(dir=_fast_folder()) as name, contextlib.redirect_stdout(sys.stderr):
            row = survive(run, Path(os.path.realpath(name)), min(_RUN_MOMENTS, arguments.most or _RUN_MOMENTS))
            _told(row.problems)
            print(row.line(), flush=True)
            rows.append(row)
    return rows


def _damage(arguments: argparse.Namespace) -> list[DamageRow]:
    from faults.damage import damage
    from faults.specimens import SPECIMENS

    rows = []
    for make in SPECIMENS:
        with TemporaryDirectory(dir=_fast_folder()) as name:
            specimen = make(Path(os.path.realpath(name)))
            if arguments.only and specimen.name not in arguments.only:
                continue
            row = damage(specimen, Path(name) / "output", arguments.most, arguments.flips or arguments.most)
            _told(row.problems)
            print(row.line(), file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def _fast_folder() -> str | None:
    """Return a folder in memory, if there is one: a converted file is synchronised with its disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _chosen(items: Sequence[object], names: Sequence[str]) -> list[object]:
    """Return the items of these names; all of them if none of the names is one of theirs."""
    return [item for item in items if item.name in names] or list(items)


def _told(problems: list[str]) -> list[str]:
    for problem in problems:
        print(f"PROBLEM {problem}", file=sys.stderr, flush=True)
    return list(problems)


if __name__ == "__main__":
    sys.exit(main())
