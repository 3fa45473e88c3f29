from __future__ import annotations

from pathlib import Path

import pytest

from rwkv_cy.errors import ConfigError
from rwkv_cy.formats.layouts import EXPORT_LAYOUTS
from rwkv_cy.formats.writers import EXPORT_FORMATS, format_of


def test_suffixes_tell_the_format() -> None:
    assert format_of(Path("m.pth")).name == "pth"
    assert format_of(Path("m.SAFETENSORS")).name == "safetensors"
    assert format_of(Path("m.st")).name == "st"
    assert format_of(Path("m.pth"), "safetensors").name == "safetensors"


def test_a_folder_is_one_of_hugging_face(tmp_path: Path) -> None:
    (tmp_path / "RWKV-1.5B").mkdir()
    for target in (tmp_path / "new", tmp_path / "RWKV-1.5B", "rwkv7-0.4b", "RWKV-5.2-World", "m.gguf/"):
        assert format_of(target).name == "huggingface"


def test_a_suffix_means_one_format() -> None:
    suffixes = [suffix for entry in EXPORT_FORMATS.values() for suffix in entry.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(name == entry.name for name, entry in EXPORT_FORMATS.items())
    assert all(layout in EXPORT_LAYOUTS for entry in EXPORT_FORMATS.values() for layout in entry.layouts)


def test_every_format_recognises_what_it_may_replace() -> None:
    """And nothing that is of another format."""
    heads = {
        "pth": b"PK\x03\x04",
        "safetensors": (100).to_bytes(8, "little") + b'{"',
        "gguf": b"GGUF\x03\0\0\0",
        "rwkvcpp": b"fmgg\x65\0\0\0",
        "model file": b"\x89HDF\r\n\x1a\n",
    }
    for name, entry in EXPORT_FORMATS.items():
        if not entry.folder:
            own = "safetensors" if name == "st" else name
            assert [kind for kind, head in heads.items() if entry.recognises(head)] == [own]


def test_other_names_are_refused() -> None:
    expected = "expected a target that ends in one of .pth, .*, or a folder"
    with pytest.raises(ConfigError, match=rf"m\.onnx: {expected}, got \.onnx; rename it, or name the format"):
        format_of(Path("m.onnx"))
    with pytest.raises(ConfigError, match=rf"m\.h5: {expected}, got \.h5; rwkv-cy convert .* writes model files"):
        format_of(Path("m.h5"))
    with pytest.raises(ConfigError, match=r"format: expected one of pth, .*, got 'onnx'"):
        format_of(Path("m.pth"), "onnx")
