"""Every architecture through every format that is written: ours to theirs to ours, and theirs as ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import CONFIGS, every_logits, tokens_for
from formats.sources import read_all
from rwkv_cy.architectures import architecture_of
from rwkv_cy.checkpoint.checkpoint import open_source
from rwkv_cy.dtypes import to_storage
from rwkv_cy.formats.layouts import EXPORT_LAYOUTS, export_layout
from rwkv_cy.formats.writers import EXPORT_FORMATS
from rwkv_cy.model.language_model import load
from rwkv_cy.tensors.plain import PlainSource
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.export import export
from rwkv_cy.toolkit.verify import verify


def _cases() -> Iterator[tuple[str, str, str]]:
    """Yield model, format and layout: all that a layout is known for."""
    for name, config in CONFIGS.items():
        shapes = {spec.name: spec.shape for spec in architecture_of(config).parameters(config)}
        for entry in EXPORT_FORMATS.values():
            for layout in entry.layouts:
                if any(table.holds(shapes) for table in EXPORT_LAYOUTS[layout]):
                    yield name, entry.name, layout


CASES = list(_cases())


def exported(tmp_path: Path, source: Path, format_name: str, layout: str, **options: str) -> Path:
    suffixes = EXPORT_FORMATS[format_name].suffixes
    path = tmp_path / f"exported{suffixes[0] if suffixes else ''}"
    export(source, path, format=format_name, layout=layout, **options)
    return path


@pytest.mark.parametrize(("model", "format_name", "layout"), CASES)
def test_ours_to_theirs_to_ours_has_the_same_bits(tmp_path: Path, model: str, format_name: str, layout: str) -> None:
    """From a model file, whose matrices are partly transposed, in a type that every format has."""
    config = CONFIGS[model]
    dtype = "f16" if "f16" in EXPORT_FORMATS[format_name].dtypes else "f32"
    parameters = {name: to_storage(array, "f32", dtype) for name, array in random_checkpoint(config).items()}
    write_safetensors(tmp_path / "checkpoint.safetensors", parameters)
    ours, again = tmp_path / "ours.h5", tmp_path / "again.h5"
    convert(tmp_path / "checkpoint.safetensors", ours)
    theirs = exported(tmp_path, ours, format_name, layout)
    assert verify(theirs).ok
    convert(theirs, again)
    omitted = export_layout(layout, {name: array.shape for name, array in parameters.items()}, "").omitted
    before, after = (read_all(PlainSource(open_source(path))) for path in (ours, again))
    assert after.keys() == before.keys() - set(omitted)
    for name, (stored, array) in after.items():
        assert (stored, array.shape) == (before[name][0], before[name][1].shape), name
        assert array.tobytes() == before[name][1].tobytes(), name


@pytest.mark.parametrize(("model", "format_name", "layout"), CASES)
def test_an_export_gives_the_same_logits(
    tmp_path: Path, checkpoints: dict[str, Path], model: str, format_name: str, layout: str
) -> None:
    source = load(checkpoints[model])
    dtype = "f32" if "f32" in EXPORT_FORMATS[format_name].dtypes else None
    theirs = load(exported(tmp_path, checkpoints[model], format_name, layout, **({"dtype": dtype} if dtype else {})))
    tokens = tokens_for(source, 20)
    expected, logits = every_logits(source, tokens)[0], every_logits(theirs, tokens)[0]
    assert theirs.config == source.config
    if dtype:
        assert logits.tobytes() == expected.tobytes()
    else:
        assert abs(logits - expected).max() < 0.05 * abs(expected).max()
