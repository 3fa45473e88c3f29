"""Every architecture through every format that is written: ours to theirs to ours, and theirs as ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import CONFIGS, every_logits, tokens_for
from formats.sources import read_all
from rwkv_cy.architectures import architecture_of
from rwkv_cy.checkpoint.checkpoint import open_source
from rwkv_cy.dtypes import to_storage, widen
from rwkv_cy.errors import RWKVError
from rwkv_cy.formats.layouts import EXPORT_LAYOUTS
from rwkv_cy.formats.writers import EXPORT_FORMATS
from rwkv_cy.formats.writers.base import ExportFormat
from rwkv_cy.model.language_model import load
from rwkv_cy.tensors.plain import PlainSource
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.export import ExportReport, export
from rwkv_cy.toolkit.verify import verify

pytestmark = pytest.mark.usefixtures("structure_checked_here")

#: Formats that keep the type of every tensor, or have one type; others widen vectors to float32.
KEEPING = ("pth", "safetensors", "st", "huggingface")


#: Formats of programs that run attention only if it is as wide as the model.
EQUAL_WIDTHS = ("gguf", "rwkvcpp")


#: Versions that a layout widens to another, which computes the same: by architecture and layout.
WIDENED = {("rwkv5.1", "web-rwkv"): "rwkv5.2", ("rwkv5.1", "rwkv.cpp"): "rwkv5.2"}


@dataclass(frozen=True)
class Case:
    """A model in a format and a layout.

    Attributes
    ----------
    model : str
        Key of CONFIGS.
    format : ExportFormat
    layout : str
    optional : bool
        Whether the layout has a place for the parameters that a checkpoint may leave out.
    """

    model: str
    format: ExportFormat
    layout: str
    optional: bool

    @property
    def refused(self) -> bool:
        """Whether the program that reads the format does not run the model."""
        config = CONFIGS[self.model]
        return config.d_att != config.d_model and self.format.name in EQUAL_WIDTHS

    @property
    def architecture(self) -> str:
        """Of the model in the file."""
        own = CONFIGS[self.model].architecture
        return WIDENED.get((own, self.layout), own)

    def __str__(self) -> str:
        return f"{self.model}-{self.format.name}-{self.layout}"

    def export(self, source: Path, folder: Path, dtype: str | None = None) -> tuple[Path, ExportReport]:
        suffixes = self.format.suffixes
        path = folder / f"exported{suffixes[0] if suffixes else ''}"
        return path, export(source, path, format=self.format.name, layout=self.layout, dtype=dtype, tokenizer="none")


def _cases() -> Iterator[Case]:
    for model, config in CONFIGS.items():
        specs = architecture_of(config).parameters(config)
        for entry in EXPORT_FORMATS.values():
            for layout in entry.layouts:
                for optional in (True, False):
                    shapes = {spec.name: spec.shape for spec in specs if optional or not spec.optional}
                    if any(table.holds(shapes) for table in EXPORT_LAYOUTS[layout]):
                        yield Case(model, entry, layout, optional)
                        break


CASES = list(_cases())


#: Writes the checkpoint of a case in a storage type, and the model file that is converted of it.
Write = Callable[[Case, str], Path]


@pytest.fixture(scope="module")
def write_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Return what writes the checkpoint of a case, once for all formats and layouts; tests only read it."""

    @cache
    def write(model: str, optional: bool, dtype: str) -> Path:
        parameters = random_checkpoint(CONFIGS[model], optional=optional)
        stored = {name: to_storage(array, "f32", dtype) for name, array in parameters.items()}
        return write_safetensors(tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors", stored)

    return lambda case, dtype: write(case.model, case.optional, dtype)


@pytest.fixture(scope="module")
def write_ours(tmp_path_factory: pytest.TempPathFactory, write_checkpoint: Write) -> Write:
    """Return what converts that checkpoint to a model file, once for all formats and layouts."""

    @cache
    def write(checkpoint: Path) -> Path:
        path = tmp_path_factory.mktemp("ours") / "ours.h5"
        convert(checkpoint, path)
        return path

    return lambda case, dtype: write(write_checkpoint(case, dtype))


@pytest.fixture(params=[case for case in CASES if not case.refused], ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    """Run the test with every case that can be written."""
    found = request.param
    assert isinstance(found, Case)
    return found


def test_every_format_has_a_case() -> None:
    assert {case.format.name for case in CASES} == EXPORT_FORMATS.keys()
    assert {case.model for case in CASES} == CONFIGS.keys()


def test_ours_to_theirs_to_ours_has_the_same_bits(tmp_path: Path, case: Case, write_ours: Write) -> None:
    """From a model file, whose matrices are partly transposed, in a type that every format has."""
    ours, again = write_ours(case, "f16"), tmp_path / "again.h5"
    theirs, report = case.export(ours, tmp_path)
    assert verify(theirs).ok
    convert(theirs, again)
    before, after = (read_all(PlainSource(open_source(path))) for path in (ours, again))
    used = {name for tensor in report.plan.tensors for name in tensor.parameters}
    computed = {name for tensor in report.plan.tensors if tensor.computed for name in tensor.parameters}
    # A matrix that is divided may have small numbers of fewer digits: half of the least float16, 2^-25, at most.
    assert all(error.largest <= 2**-25 for error in report.rounding.values())
    assert computed or not report.rounding
    assert after.keys() == used
    assert used >= before.keys() - {f"blocks.0.att.{name}" for name in ("v0", "v1", "v2")}
    for name, (dtype, array) in after.items():
        if array.shape != before[name][1].shape:
            assert (CONFIGS[case.model].architecture, case.layout) in WIDENED, name
            before[name] = before[name][0], np.broadcast_to(before[name][1][:, None], array.shape)
        if case.format.name in KEEPING:
            assert dtype == before[name][0], name
        numbers, expected = widen(array, dtype, "f64"), widen(before[name][1], before[name][0], "f64")
        if name in computed:
            # Decays near 1 have few digits of what they are computed from; the logits tell whether they suffice.
            np.testing.assert_allclose(numbers, expected, rtol=0, atol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(numbers, expected, err_msg=name)


def test_an_export_verifies_against_its_source(tmp_path: Path, case: Case, write_checkpoint: Write) -> None:
    checkpoint = write_checkpoint(case, "f16")
    theirs, _ = case.export(checkpoint, tmp_path)
    assert verify(theirs, against=checkpoint).problems == ()


def test_a_model_that_is_written_as_another_version_is_said_and_compared(
    tmp_path: Path, write_checkpoint: Write
) -> None:
    cases = [case for case in CASES if (CONFIGS[case.model].architecture, case.layout) in WIDENED]
    assert {(case.format.name, case.layout) for case in cases} >= {("st", "web-rwkv"), ("rwkvcpp", "rwkv.cpp")}
    for case in cases:
        checkpoint = write_checkpoint(case, "f16")
        theirs, report = case.export(checkpoint, tmp_path)
        (said,) = [warning for warning in report.warnings if "repeated" in warning]
        assert said.startswith("6 tensors, blocks.0.att.time_decay first, ")
        assert said.endswith("read back, it is RWKV-5.2, which computes the same")
        for name in ("time_decay", "time_faaaa"):
            parameters = random_checkpoint(CONFIGS[case.model], optional=case.optional)
            parameters[f"blocks.1.att.{name}"][2] += 0.25
            other = write_safetensors(
                tmp_path / "other.safetensors", {n: a.astype("f2") for n, a in parameters.items()}
            )
            (problem,) = verify(theirs, against=other).problems
            assert f"blocks.1.att.{name}: expected" in problem
            assert " at (2, 0)" in problem


def test_an_export_gives_the_same_logits(tmp_path: Path, case: Case, write_checkpoint: Write) -> None:
    dtype = "f32" if "f32" in case.format.dtypes else "f16"
    checkpoint = write_checkpoint(case, dtype)
    path, report = case.export(checkpoint, tmp_path, dtype)
    source, theirs = load(checkpoint), load(path)
    assert theirs.config == replace(source.config, architecture=case.architecture)
    tokens = tokens_for(source, 20)
    expected, logits = every_logits(source, tokens)[0], every_logits(theirs, tokens)[0]
    if case.architecture != source.config.architecture or any(tensor.computed for tensor in report.plan.tensors):
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * abs(expected).max())
    else:
        assert logits.tobytes() == expected.tobytes()


def test_models_that_a_program_does_not_run_are_refused(tmp_path: Path, write_checkpoint: Write) -> None:
    refused = [case for case in CASES if case.refused]
    for case in refused:
        checkpoint = write_checkpoint(case, "f32")
        with pytest.raises(RWKVError, match="expected .* width|expected an attention as wide as the model"):
            case.export(checkpoint, tmp_path)
    assert {case.format.name for case in refused} <= set(EQUAL_WIDTHS)
