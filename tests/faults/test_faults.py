"""A short run of the campaigns; ``make test-faults`` runs them in full."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faults.__main__ import main
from faults.table import CampaignRow, DamageRow, damage_table, moments_table, replace_between

TESTS = Path(__file__).parents[1]


def run(*words: str) -> list[dict[str, Any]]:
    """Run the command, and return its rows; problems are in them."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    done = subprocess.run(
        [sys.executable, "-m", "faults", *words, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS.parent,
    )
    assert done.returncode in (0, 1), done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert [problem for row in rows for problem in row["problems"]] == []
    return rows


#: A file, a folder, several files, a format of another program, and a small file that is written through Python.
OPERATIONS = ("convert", "export to huggingface", "export to gguf", "shard", "State.save")


needs_library = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which(os.environ.get("CC", "cc").split()[0]) is None,
    reason="the library of faults needs Linux and a C compiler",
)


@needs_library
def test_an_operation_survives_every_fault() -> None:
    rows = {row["name"]: row for row in run("moments", "--most", "3", "--only", "State.save")}
    killed = rows["kill -9"]
    assert killed["operations"] == 1
    assert killed["moments"] == sum(killed["left"].values()) >= 3
    assert rows["full disk (ENOSPC)"]["left"]["older"] >= 3
    assert rows["short reads and writes"]["left"] == {"new": 2}


@pytest.mark.slow
@needs_library
def test_every_operation_survives_every_fault() -> None:
    words = [word for name in OPERATIONS for word in ("--only", name)]
    rows = {row["name"]: row for row in run("moments", "--most", "8", *words)}
    killed = rows["kill -9"]
    assert killed["operations"] == 5
    assert killed["moments"] >= 40  # every rename is one, whatever --most says
    assert killed["left"]["older"] >= 8
    assert killed["left"]["new"] >= 4
    full = rows["full disk (ENOSPC)"]
    assert full["moments"] >= 40
    assert full["left"]["older"] >= 30
    assert rows["short reads and writes"]["left"] == {"new": 10}


@pytest.mark.slow
@needs_library
def test_a_run_that_was_killed_goes_on_to_the_same_result() -> None:
    row = run("runs", "--most", "20", "--only", "train")[0]
    assert row["moments"] >= 20
    assert row["began"] >= 4
    assert row["went_on"] >= 4
    assert row["began"] + row["went_on"] + row["complete"] == row["moments"]


@pytest.mark.parametrize("most", [12, pytest.param(24, marks=pytest.mark.slow)])
def test_every_format_survives_damage(most: int) -> None:
    rows = run("damage", "--most", str(most))
    assert len(rows) == 17
    assert all(row["refused"] >= most // 2 for row in rows)


@pytest.mark.parametrize(
    ("work", "code"), [("while True: pass", -signal.SIGPROF), ("signal.pause()", -signal.SIGALRM), ("time.sleep(1)", 0)]
)
def test_a_child_that_loops_or_waits_is_ended_but_not_one_that_is_slow(tmp_path: Path, work: str, code: int) -> None:
    limits = "0.2, 600" if code == -signal.SIGPROF else "600, 1" if code else "0.2, 600"
    program = (
        f"import signal, time; from pathlib import Path; from faults import moments\n"
        f"moments._CPU_SECONDS, moments._SECONDS = {limits}\n"
        f"def work():\n    {work}\n    return 0\n"
        f"log = Path({str(tmp_path / 'log')!r}); print(moments.ended(moments.run_child(work, log), log).code)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == code


@pytest.mark.parametrize(
    ("campaign", "known"), [("moments", "kill -9"), ("runs", "tune --method lora"), ("damage", "safetensors")]
)
def test_unknown_names_are_an_error(
    campaign: str, known: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["faults", campaign, "--only", known, "--only", "converted"])
    with pytest.raises(SystemExit, match="2"):
        main()
    error = capsys.readouterr().err
    assert f"argument --only: {campaign} has not 'converted'; choose from " in error
    assert known in error.partition("choose from ")[2]


def test_the_page_is_written_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- moments -->\nold\n<!-- /moments -->\nb\n")
    row = CampaignRow("kill", "older or new")
    row.add(3, {"older": 2, "new": 1})
    replace_between(page, "moments", moments_table([row]))
    text = page.read_text()
    assert "| kill | older or new | 1 | 3 | 2 | 1 | 0 | 0 |" in text
    assert "old\n" not in text.splitlines()
    replace_between(page, "moments", damage_table([]))
    assert "kill" not in page.read_text()
    replace_between(page, "moments", damage_table([DamageRow("a", 1), DamageRow("b", 2)]))
    replace_between(page, "moments", damage_table([DamageRow("c", 3), DamageRow("a", 4)]), rows_only=True)
    lines = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")][1:]
    assert [line[:2] for line in lines] == [["| a", "4"], ["| b", "2"], ["| c", "3"]]
    with pytest.raises(ValueError, match="expected the marks <!-- other --> and <!-- /other --> once, got 0 of them"):
        replace_between(page, "other", "")
