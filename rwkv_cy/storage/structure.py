"""The HDF5 objects of a file, compared with its index: each is checked before it is followed or read.

Run by :mod:`rwkv_cy.storage.verification` in a process of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5p, h5s, h5t

from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.layout import FILE_TYPES, AttributeValue, dataset_attributes, dataset_offset, root_attributes
from rwkv_cy.storage.schema import DatasetSpec

__all__ = ["main", "structure_problems"]

_MAX_PROBLEMS = 100
_LINK_KINDS = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}
_LAYOUTS = {h5d.COMPACT: "compact", h5d.CONTIGUOUS: "contiguous", h5d.CHUNKED: "chunked", h5d.VIRTUAL: "virtual"}

#: A folder of the tree: names to datasets with their offsets, or to further folders.
_Tree = dict[str, Any]


def main(path: str, kind: str, footer: str) -> None:
    """Print the problems of a file as a JSON list; `footer` tells whether it is still the file that was opened."""
    with CheckedFile(Path(path), kind) as checked:
        if repr(checked.footer) == footer:
            problems = structure_problems(checked)
        else:
            problems = ["expected the file that was opened, got a different file of that name; verify again"]
    print(json.dumps(problems))


def structure_problems(checked: CheckedFile) -> list[str]:
    """Return how HDF5's objects differ from the index; an empty list if they do not."""
    problems: list[str] = []
    try:
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_fclose_degree(h5f.CLOSE_STRONG)
        access.set_file_locking(False, True)
        file = h5f.open(os.fsencode(checked.path), h5f.ACC_RDONLY, fapl=access)
        try:
            for problem in _walk(h5g.open(file, b"/"), _tree(checked), ""):
                problems.append(problem)
                if len(problems) == _MAX_PROBLEMS:
                    break
            problems += _root_problems(h5g.open(file, b"/"), root_attributes(checked.kind, checked.footer.version))
        finally:
            file.close()
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        problems.append(f"HDF5 cannot read the structure ({error}); convert or save the file again")
    return problems


def _tree(checked: CheckedFile) -> _Tree:
    root: _Tree = {}
    for spec, offset in checked.datasets():
        *groups, leaf = spec.path.split("/")
        place = root
        for group in groups:
            place = place.setdefault(group, {})
        place[leaf] = (spec, offset)
    return root


def _walk(group: h5g.GroupID, tree: _Tree, prefix: str) -> Iterator[str]:
    """Yield the problems below a group. Names come from the index, so that links cannot form a cycle."""
    if group.get_num_objs() != len(tree):
        yield f"{prefix or '/'}: expected {len(tree)} links, got {group.get_num_objs()}"
    for name, expected in tree.items():
        path = f"{prefix}/{name}"
        key = name.encode("ascii")
        if key not in group:
            yield f"{path}: expected an object, got none"
            continue
        kind = group.links.get_info(key).type
        if kind != h5l.TYPE_HARD:
            yield f"{path}: expected a hard link, got {_LINK_KINDS.get(kind, 'a link of another kind')}"
            continue
        found = h5o.open(group, key)
        count = h5o.get_info(found).rc
        if count != 1:
            yield f"{path}: expected one link to the object, got {count}"
        elif isinstance(expected, dict):
            if isinstance(found, h5g.GroupID):
                yield from _walk(found, expected, path)
            else:
                yield f"{path}: expected a group, got {type(found).__name__}"
        elif isinstance(found, h5d.DatasetID):
            problem = _dataset_problem(found, *expected)
            if problem:
                yield f"{path}: expected {problem}"
        else:
            yield f"{path}: expected a dataset, got {type(found).__name__}"


def _dataset_problem(dataset: h5d.DatasetID, spec: DatasetSpec, offset: int) -> str | None:
    """Return how a dataset differs from the index, as the rest of a sentence that begins with "expected".

    The layout is checked first: querying the extent of a virtual dataset would open other files.
    """
    creation = dataset.get_create_plist()
    layout, expected = creation.get_layout(), h5d.CONTIGUOUS if spec.chunk is None else h5d.CHUNKED
    if layout != expected:
        return f"the layout {_LAYOUTS[expected]}, got {_LAYOUTS.get(layout, layout)}"
    if creation.get_external_count() != 0:
        return "its bytes in this file, got external storage"
    if creation.get_nfilters() != 0:
        return f"no filter, got {creation.get_nfilters()}"
    kind = dataset.get_type()
    if kind.committed() or not kind.equal(FILE_TYPES[spec.dtype]):
        return f"the type of {spec.dtype}, got {_type_name(kind)}"
    space = dataset.get_space()
    if space.get_simple_extent_type() != h5s.SIMPLE:
        return f"the shape {spec.shape}, got none"
    shape, limit = space.get_simple_extent_dims(), space.get_simple_extent_dims(True)
    if shape != spec.shape or limit != spec.shape:
        return f"the shape {spec.shape}, got {shape} that may grow to {limit}"
    if spec.chunk is not None and creation.get_chunk() != spec.chunk:
        return f"chunks of {spec.chunk}, got {creation.get_chunk()}"
    if dataset_offset(dataset, spec) != offset:
        return f"its bytes in one span at {offset}, got them elsewhere"
    return _attribute_problem(dataset, dataset_attributes(spec))


def _type_name(kind: h5t.TypeID) -> str:
    return f"{type(kind).__name__} of {kind.get_size()} bytes"


def _root_problems(root: h5g.GroupID, expected: Mapping[str, AttributeValue]) -> list[str]:
    problem = _attribute_problem(root, expected)
    return [f"/: expected {problem}"] if problem else []


def _attribute_problem(owner: h5g.GroupID | h5d.DatasetID, expected: Mapping[str, AttributeValue]) -> str | None:
    count = h5a.get_num_attrs(owner)
    if count != len(expected):
        return f"{len(expected)} attributes, got {count}"
    for name, value in expected.items():
        if not h5a.exists(owner, name.encode("ascii")):
            return f"an attribute {name}, got none"
        found = _attribute_value(h5a.open(owner, name.encode("ascii")))
        if found != value:
            return f"the attribute {name} = {value!r}, got {found!r}"
    return None


def _attribute_value(attribute: h5a.AttrID) -> AttributeValue | None:
    """Return the value as :data:`AttributeValue`; None for all other types, which are not read."""
    kind, space = attribute.get_type(), attribute.get_space()
    if kind.equal(h5t.STD_U64LE) and space.get_simple_extent_type() == h5s.SIMPLE:
        if space.get_simple_extent_dims() != (2,):
            return None
        numbers = np.zeros(2, "<u8")
        attribute.read(numbers)
        return tuple(numbers.tolist())
    if space.get_simple_extent_type() != h5s.SCALAR:
        return None
    if kind.equal(h5t.STD_U32LE):
        number = np.zeros((), "<u4")
        attribute.read(number)
        return int(number)
    if isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str() and 0 < kind.get_size() <= 64:
        text = np.zeros((), f"S{kind.get_size()}")
        attribute.read(text, kind)
        return bytes(text[()]).decode("ascii", "replace")
    return None
