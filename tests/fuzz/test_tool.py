"""Guided runs: their limit of CPU time, and files that a process leaves when libFuzzer ends it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
#: Ends as libFuzzer ends a process, without the functions of atexit.
LEAVES = "import os; from fuzz.reading import scratch_folder as s; print(s(), flush=True); os._exit({code})"
#: CPU seconds of an execution, and what it does.
LIMITED = "import sys, time; sys.path.insert(0, {folder!r}); import fuzz_trace; fuzz_trace.limit({limit}); {work}"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Return tools/fuzz.py, with folders of its own."""
    spec = importlib.util.spec_from_file_location("fuzz_tool", ROOT / "tools" / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results.json")
    return module


@pytest.mark.parametrize("code", [0, 77])
def test_nothing_is_left_of_a_process_that_is_ended(tool: ModuleType, tmp_path: Path, code: int) -> None:
    sound = tool.run("x", [sys.executable, "-c", LEAVES.format(code=code)], 1, 0)
    assert sound == (code == 0)
    folder = Path((tmp_path / "logs" / "x.log").read_text().strip())
    assert folder.name.startswith("fuzz-")
    assert not folder.parent.exists()


#: Runs the command of its arguments, as `python -m fuzz.guided` runs itself.
WATCHES = "import sys; from fuzz.scratch import run_with_scratch as run; sys.exit(run(sys.argv[1:]))"
#: Ends as libFuzzer does when a signal comes, or waits for one that cannot be handled.
WAITS = (
    "import os, signal; from fuzz.reading import scratch_folder as s; "
    "[signal.signal(n, lambda n, f: os._exit(70 + n)) for n in (2, 15)]; print(s(), flush=True); signal.pause()"
)


def watched(program: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "FUZZ_SCRATCH"}
    environment["PYTHONPATH"] = os.pathsep.join(str(ROOT / name) for name in ("tests", "."))
    command = [sys.executable, "-c", WATCHES, sys.executable, "-c", program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("code", [0, 77])
def test_a_run_by_itself_leaves_nothing(code: int) -> None:
    with watched(LEAVES.format(code=code)) as process:
        folder = Path(process.communicate()[0].strip())
    assert process.returncode == code
    assert folder.parent.name.startswith("fuzz-")
    assert not folder.parent.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_by_itself_that_is_ended_leaves_nothing(number: int) -> None:
    with watched(WAITS) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        process.send_signal(number)
    assert process.returncode == 70 + number
    assert folder.parent.name.startswith("fuzz-")
    assert not folder.parent.exists()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile fuzz_trace.c, and return its folder."""
    compiler = os.environ.get("CC", "cc").split()
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if sys.platform != "linux" or shutil.which(compiler[0]) is None or not header.exists():
        pytest.skip("needs Linux, a C compiler and Python.h")
    folder = tmp_path_factory.mktemp("trace")
    source, library = ROOT / "tests" / "fuzz" / "fuzz_trace.c", folder / "fuzz_trace.so"
    words = [
        "-O1",
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        f"-I{header.parent}",
        str(source),
        "-ldl",
        "-o",
        str(library),
    ]
    subprocess.run([*compiler, *words], check=True)
    return folder


@pytest.mark.parametrize(
    ("work", "code"),
    [
        ("\nwhile True: pass", -signal.SIGABRT),
        ("\nwhile True: sum(range(1 << 20))", -signal.SIGABRT),
        ("time.sleep(0.5)", 0),  # as if it were stopped: it takes no CPU time
        ("fuzz_trace.limit(0)\nfor _ in range(40): sum(range(1 << 18))", 0),
    ],
)
def test_an_execution_is_limited_in_its_cpu_time(traced: Path, work: str, code: int) -> None:
    program = LIMITED.format(folder=str(traced), limit=0.1, work=work)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("took more CPU time than its limit" in done.stderr) == (code != 0)
