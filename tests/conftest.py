"""Shared fixtures: the location of the test data, and a failure if it is missing."""

from __future__ import annotations

import gc
import importlib
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import find, settings, strategies

# NumPy's BLAS reads it once, as NumPy is imported: the products of the tests are small, and its threads would only
# wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from checkpoints import write_small
from hub.server import HubServer, serve
from rwkv_cy.kernels import dispatch
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.storage import verification
from rwkv_cy.storage.checked_file import CheckedFile

# A shell starts what runs in its background with SIGINT ignored, and children inherit it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-examples", type=int, default=200, metavar="N", help="damaged files that each fuzz test tries"
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect thousands of tests without looking for garbage among them, neither now nor while they run.

    hypothesis makes its random numbers for the first example, and asks the collector what refers to them. That does not
    find frozen modules, and older versions warn, in whichever test comes first. So an example comes before all tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        find(strategies.none(), lambda _: True, settings=settings(database=None))
        gc.freeze()


@pytest.fixture(params=dispatch.available_instruction_sets())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test with every instruction set that this CPU has."""
    before = dispatch.active_instruction_set()
    yield dispatch.select_instruction_set(request.param)
    dispatch.select_instruction_set(before)


@pytest.fixture(scope="session")
def fuzz_examples(pytestconfig: pytest.Config) -> int:
    """Return how many damaged files each fuzz test tries: ``--fuzz-examples``."""
    return int(pytestconfig.getoption("--fuzz-examples"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the reference data beside the checkout; what needs it is skipped, with a line, where there is none."""
    if not (SHARED / "vectors").is_dir():
        pytest.skip(f"needs the reference data in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def kjv_checkpoint() -> Path:
    """Return the trained byte-level RWKV-4 that the checkout ships, as an official-layout checkpoint."""
    return ROOT / "data" / "kjv.pth"


@pytest.fixture(scope="session")
def kjv(kjv_checkpoint: Path) -> LanguageModel:
    """Return the same model, mapped; it has no state of its own that a test could change."""
    return load(kjv_checkpoint)


@pytest.fixture(scope="session")
def heldout() -> bytes:
    """Return a text that the trained models have not seen."""
    return (ROOT / "data" / "kjv-heldout.txt").read_bytes()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a small checkpoint of 256 tokens."""
    return write_small(tmp_path / "small.safetensors")


@pytest.fixture
def structure_checked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the index of a model file with its HDF5 objects in this process: for files that the test itself writes.

    A verification starts a process for it, which takes longer than all else that it does with a small file; the tests
    of storage hold it to that process.
    """
    from rwkv_cy.storage.structure import structure_problems

    def problems(checked: CheckedFile) -> list[str]:
        return [f"{checked.path}: {problem}" for problem in structure_problems(checked)]

    monkeypatch.setattr(verification, "_object_problems", problems)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Return a Hugging Face hub on the loopback, which this process and those that it starts take for the only one."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr("rwkv_cy.hub.transfer._PAUSES", (0.0, 0.0, 0.0, 0.0))
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hub-home" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for module in (constants, importlib.import_module("huggingface_hub.file_download")):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        yield server
