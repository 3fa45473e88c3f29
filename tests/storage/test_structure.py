"""HDF5 objects that contradict the index: each is named in an error, and none is followed or read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import h5py
import numpy as np
import pytest

from rwkv_cy.errors import FormatError, StorageError
from rwkv_cy.storage import open_model, verification
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.schema import MODEL_KIND
from rwkv_cy.storage.structure import main, structure_problems
from storage.small import change_footer, python, write_small

EMB = "parameters/emb.weight"
KEY = "parameters/blocks.0/att.key.weight"
#: Creates a file that says so, as soon as the dynamic linker has loaded it.
PLUGIN = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void loaded(void) { fclose(fopen(getenv("RWKV_CY_TEST_MARK"), "w")); }
int H5PLget_plugin_type(void) { return 0; }
const void *H5PLget_plugin_info(void) { return NULL; }
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.h5"
    write_small(path)
    return path


def problems_after(model: Path, edit: Callable[[h5py.File], object]) -> list[str]:
    """Edit a copy of the model with HDF5, and hold it against the index of the original."""
    forged = model.with_name("forged.h5")
    shutil.copy(model, forged)
    with h5py.File(forged, "r+", locking=False) as file:
        edit(file)
    with pytest.raises(FormatError):
        open_model(forged)
    with CheckedFile(model, MODEL_KIND) as checked:
        stand_in = SimpleNamespace(path=forged, kind=MODEL_KIND, footer=checked.footer, datasets=checked.datasets)
        return structure_problems(cast("CheckedFile", stand_in))


def replace(path: str, **options: Any) -> Callable[[h5py.File], None]:
    """Put another dataset in the place of one."""

    def edit(file: h5py.File) -> None:
        del file[path]
        file.create_dataset(path, **options)
        file[path].attrs["dtype"] = np.bytes_(b"f32" if path == EMB else b"bf16")

    return edit


def link(path: str, target: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[path]
        file[path] = target

    return edit


def second_link(file: h5py.File) -> None:
    file["parameters/again"] = file[KEY]


def cycle(file: h5py.File) -> None:
    del file["parameters/blocks.1"]
    file["parameters/blocks.1"] = file["parameters"]


def virtual(file: h5py.File) -> None:
    del file[EMB]
    layout = h5py.VirtualLayout((130, 128), "<f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (130, 128))
    file.create_virtual_dataset(EMB, layout)


def committed(file: h5py.File) -> None:
    file["type"] = np.dtype("<f4")
    replace(EMB, shape=(130, 128), dtype=file["type"], chunks=(130, 128))(file)
    del file["type"]


def named_type(file: h5py.File) -> None:
    del file[KEY]
    file[KEY] = np.dtype("<u2")


def group_for_dataset(file: h5py.File) -> None:
    del file[KEY]
    file.create_group(KEY)


def dataset_for_group(file: h5py.File) -> None:
    del file["parameters/blocks.1"]
    file["parameters/blocks.1"] = 3


def early(**options: Any) -> Callable[[h5py.File], None]:
    """Put a dataset that differs in nothing but `options` in the place of the embedding."""

    def edit(file: h5py.File) -> None:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_alloc_time(options.get("time", h5py.h5d.ALLOC_TIME_EARLY))
        creation.set_chunk(options.get("chunk", (130, 128)))
        space = h5py.h5s.create_simple((130, 128), options.get("limit"))
        del file[EMB]
        h5py.h5d.create(file.id, EMB.encode(), h5py.h5t.IEEE_F32LE, space, dcpl=creation)

    return edit


def attribute(owner: str, name: str, value: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        file[owner].attrs[name] = value

    return edit


def remove_attribute(file: h5py.File) -> None:
    del file[EMB].attrs["dtype"]
    file[EMB].attrs["other"] = np.bytes_(b"f32")


def chunked(dtype: Any, **options: Any) -> Callable[[h5py.File], None]:
    """Put a dataset of another type in the place of the embedding."""
    return replace(EMB, shape=(130, 128), chunks=(130, 128), dtype=dtype, **options)


EXPECTED_F32 = f"/{EMB}: expected the type of f32, got"


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (link(EMB, h5py.SoftLink("/parameters/head.weight")), f"/{EMB}: expected a hard link, got a soft link"),
        (link(EMB, h5py.SoftLink("/nowhere")), f"/{EMB}: expected a hard link, got a soft link"),
        (link(EMB, h5py.SoftLink(f"/{EMB}")), f"/{EMB}: expected a hard link, got a soft link"),
        (link(EMB, h5py.ExternalLink("/etc/passwd", "/x")), f"/{EMB}: expected a hard link, got an external link"),
        (second_link, f"/{KEY}: expected one link to the object, got 2"),
        (second_link, "/parameters: expected 4 links, got 5"),
        (cycle, "/parameters: expected one link to the object, got 2"),
        (virtual, f"/{EMB}: expected the layout chunked, got virtual"),
        (named_type, f"/{KEY}: expected a dataset, got TypeIntegerID"),
        (group_for_dataset, f"/{KEY}: expected a dataset, got GroupID"),
        (dataset_for_group, "/parameters/blocks.1: expected a group, got DatasetID"),
        (lambda file: file.pop(KEY), f"/{KEY}: expected an object, got none"),
        (lambda file: file.create_group("more"), "/: expected 2 links, got 3"),
        (replace(EMB, shape=(130, 128), dtype="<f4"), f"/{EMB}: expected the layout chunked, got contiguous"),
        (
            replace(KEY, shape=(8, 8), dtype="<u2", external=[("/etc/passwd", 0, 128)]),
            f"/{KEY}: expected its bytes in this file, got external storage",
        ),
        (chunked("<f4", compression="gzip"), f"/{EMB}: expected no filter, got 1"),
        (chunked("<f4", fletcher32=True), f"/{EMB}: expected no filter, got 1"),
        (chunked(">f4"), f"{EXPECTED_F32} TypeFloatID of 4"),
        (chunked("<i4"), f"{EXPECTED_F32} TypeIntegerID of 4"),
        (chunked("<f8"), f"{EXPECTED_F32} TypeFloatID of 8"),
        (committed, f"{EXPECTED_F32} TypeFloatID of 4"),
        (chunked(h5py.string_dtype()), f"{EXPECTED_F32} TypeStr"),
        (chunked(h5py.vlen_dtype("<f4")), f"{EXPECTED_F32} TypeVlen"),
        (chunked(h5py.ref_dtype), f"{EXPECTED_F32} TypeRef"),
        (chunked(h5py.enum_dtype({"a": 1})), f"{EXPECTED_F32} TypeEnum"),
        (chunked([("a", "<f4")]), f"{EXPECTED_F32} TypeCompound"),
        (replace(KEY, dtype="<u2", data=h5py.Empty("<u2")), f"/{KEY}: expected the shape (8, 8), got none"),
        (replace(KEY, shape=(1 << 40, 1 << 20), dtype="<u2"), f"/{KEY}: expected the shape (8, 8), got (1099511"),
        (replace(KEY, shape=(), dtype="<u2"), f"/{KEY}: expected the shape (8, 8), got none"),
        (early(chunk=(65, 128)), f"/{EMB}: expected chunks of (130, 128), got (65, 128)"),
        (early(limit=(h5py.h5s.UNLIMITED, 128)), f"/{EMB}: expected the shape (130, 128), got (130, 128) that may"),
        (early(time=h5py.h5d.ALLOC_TIME_INCR), f"/{EMB}: expected its bytes in one span at"),
        (early(), f"/{EMB}: expected 1 attributes, got 0"),
        (replace(KEY, shape=(8, 8), dtype="<u2"), f"/{KEY}: expected its bytes in one span at"),
        (attribute(EMB, "dtype", np.bytes_(b"f16")), f"/{EMB}: expected the attribute dtype = 'f32', got 'f16'"),
        (attribute(EMB, "dtype", "f32"), f"/{EMB}: expected the attribute dtype = 'f32', got None"),
        (attribute(EMB, "dtype", np.bytes_(b"f" * 65)), f"/{EMB}: expected the attribute dtype = 'f32', got None"),
        (attribute(EMB, "dtype", [1, 2]), f"/{EMB}: expected the attribute dtype = 'f32', got None"),
        (attribute(EMB, "more", 1), f"/{EMB}: expected 1 attributes, got 2"),
        (remove_attribute, f"/{EMB}: expected an attribute dtype, got none"),
        (attribute("/", "format", np.bytes_(b"other")), "/: expected the attribute format = 'rwkv-cy', got 'other'"),
        (attribute("/", "kind", np.bytes_(b"state")), "/: expected the attribute kind = 'model', got 'state'"),
        (attribute("/", "complete", np.uint32(0)), "/: expected the attribute complete = 1, got 0"),
        (attribute("/", "major", np.uint32(2)), "/: expected the attribute major = 1, got 2"),
        (attribute("/", "minor", np.uint32(1)), "/: expected the attribute minor = 0, got 1"),
    ],
)  # fmt: skip
def test_hostile_objects(model: Path, edit: Callable[[h5py.File], object], expected: str) -> None:
    assert [problem for problem in problems_after(model, edit) if problem.startswith(expected)]


def test_unharmed(model: Path) -> None:
    with CheckedFile(model, MODEL_KIND) as checked:
        assert structure_problems(checked) == []


def test_a_file_that_hdf5_refuses(model: Path) -> None:
    def edit(file: h5py.File) -> None:
        file.attrs["more"] = 1

    assert problems_after(model, edit)
    forged = model.with_name("forged.h5")
    forged.write_bytes(forged.read_bytes()[:200] + bytes(4000) + forged.read_bytes()[4200:])
    with CheckedFile(model, MODEL_KIND) as checked:
        stand_in = SimpleNamespace(path=forged, kind=MODEL_KIND, footer=checked.footer, datasets=checked.datasets)
        problems = structure_problems(cast("CheckedFile", stand_in))
    assert any("HDF5 cannot read the structure" in problem for problem in problems)


def test_problems_are_counted_out(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_cy.storage.structure._MAX_PROBLEMS", 2)

    def edit(file: h5py.File) -> None:
        for path in (KEY, EMB, "parameters/head.weight"):
            del file[path]

    assert len(problems_after(model, edit)) == 2


def test_forged_with_a_checksum_that_fits(model: Path) -> None:
    """The loader takes what the index says, from this file; verification says that HDF5 would find something else."""
    with CheckedFile(model, MODEL_KIND) as checked:
        size = checked.footer.metadata_size
    with h5py.File(model, "r+", locking=False) as file:
        h5py.h5a.open(file[KEY].id, b"dtype").write(np.array(b"f16", "S4"))
    with pytest.raises(FormatError, match="the HDF5 structure: the checksum does not match"):
        open_model(model)
    change_footer(model, metadata_crc=zlib.crc32(model.read_bytes()[:size]))
    with open_model(model) as opened:
        report = opened.verify()
    assert report.damaged == ()
    assert report.problems == (f"{model}: /{KEY}: expected the attribute dtype = 'bf16', got 'f16'",)


def test_hdf5_in_a_process_of_its_own_may_crash(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_CHILD", "import os; os.abort()")
    with open_model(model) as file:
        report = file.verify()
    assert report.problems == (f"{model}: HDF5 failed on the structure (status -6); convert or save it again",)


def test_hdf5_may_not_come_to_an_end(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(verification, "_TIMEOUT_SECONDS", 0.05)
    with open_model(model) as file:
        report = file.verify()
    assert report.problems == (f"{model}: HDF5 did not finish reading the structure; convert or save it again",)


def test_no_module_of_the_current_folder_is_imported(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was downloaded may hold a json.py beside the model."""
    folder = tmp_path / "download"
    folder.mkdir()
    for name in ("json", "h5py", "numpy", "zlib"):
        (folder / f"{name}.py").write_text("open('imported', 'w').close()")
    monkeypatch.chdir(folder)
    with open_model(model) as file:
        assert file.verify().ok
    assert not (folder / "imported").exists()


def test_no_process_can_be_started(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with (
        open_model(model) as file,
        pytest.raises(StorageError, match="cannot start a process to check"),
    ):
        file.verify()


def test_replaced_while_it_is_open(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(str(model), MODEL_KIND, "another footer")
    assert (
        "expected the file that was opened, got a different file of that name; verify again" in capsys.readouterr().out
    )
    with CheckedFile(model, MODEL_KIND) as checked:
        main(str(model), MODEL_KIND, repr(checked.footer))
    assert capsys.readouterr().out == "[]\n"


def test_no_plugin_is_loaded(model: Path, tmp_path: Path) -> None:
    """HDF5 loads every library of HDF5_PLUGIN_PATH when it meets a filter that it does not know."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (tmp_path / "plugin.c").write_text(PLUGIN)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", plugins / "libevil.so", tmp_path / "plugin.c"], check=True)
    mark = tmp_path / "mark"
    environment = {**os.environ, "HDF5_PLUGIN_PATH": str(plugins), "RWKV_CY_TEST_MARK": str(mark)}

    def unknown_filter(file: h5py.File) -> None:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((130, 128))
        creation.set_filter(32_000, h5py.h5z.FLAG_OPTIONAL, (0,))
        del file[EMB]
        h5py.h5d.create(file.id, EMB.encode(), h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((130, 128)), dcpl=creation)

    assert any("expected no filter, got 1" in problem for problem in problems_after(model, unknown_filter))
    program = """
import sys, h5py
from types import SimpleNamespace
from pathlib import Path
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.structure import structure_problems
with CheckedFile(Path(sys.argv[1]), "model") as checked:
    forged = SimpleNamespace(path=Path(sys.argv[2]), kind="model", footer=checked.footer, datasets=checked.datasets)
    print(structure_problems(forged))
"""
    command = python(program, model, model.with_name("forged.h5"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "expected no filter, got 1" in done.stdout
    assert not mark.exists()
