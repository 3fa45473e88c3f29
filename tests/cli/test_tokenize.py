from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from checkpoints import write_small
from cli.conftest import Run
from hub.server import HubServer, Repository
from rwkv_cy.cli.pieces import quoted
from text.samples import byte_level_json


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b" the", '" the"'),
        ("é人".encode(), '"é人"'),
        (b'\n\t\r"\\', r'"\n\t\r\"\\"'),
        (b"\\n", r'"\\n"'),
        ("人".encode()[:2], r'"\xe4\xba"'),
        (b"\x1b\x00\xc2\x85", r'"\u{1b}\u{0}\u{85}"'),
        (b"", '""'),
    ],
)
def test_pieces_as_text(data: bytes, shown: str) -> None:
    assert quoted(data) == shown


def test_a_text(run: Run, kjv_checkpoint: Path) -> None:
    result = run("tokenize", kjv_checkpoint, "In\n")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "position   id  piece\n"
        "--------  ---  -----\n"
        '       0   73  "I"\n'
        '       1  110  "n"\n'
        '       2   10  "\\n"\n'
        "\n"
        "3 tokens, 3 bytes; tokenizer bytes of 256 tokens\n"
    )


def test_where_the_text_comes_from(
    run: Run, kjv_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run("tokenize", kjv_checkpoint, "In the")
    (tmp_path / "t").write_bytes(b"In the")
    assert run("tokenize", kjv_checkpoint, "--file", tmp_path / "t") == expected
    assert run("tokenize", kjv_checkpoint, "-f", tmp_path / "t") == expected
    monkeypatch.setattr(sys, "stdin", Stdin(b"In the"))
    assert run("tokenize", kjv_checkpoint, "-") == expected
    assert run("tokenize", "--tokenizer", "bytes", "In the") == expected
    assert run("tokenize", "In the", "--tokenizer", "bytes") == expected
    assert run("tokenize", "--tokenizer", "bytes", "-f", tmp_path / "t") == expected
    assert run("tokenize", kjv_checkpoint, "In the", "--tokenizer", "bytes") == expected


def test_ids_and_count(run: Run, kjv_checkpoint: Path) -> None:
    assert run("tokenize", kjv_checkpoint, "In", "--ids").out == "73 110\n"
    assert run("tokenize", kjv_checkpoint, "In", "--count").out == "2\n"
    assert run("tokenize", kjv_checkpoint, "", "--count").out == "0\n"
    assert run("tokenize", kjv_checkpoint, "").out.endswith("0 tokens, 0 bytes; tokenizer bytes of 256 tokens\n")
    assert run("tokenize", kjv_checkpoint, "a", "--ids", "--json").code == 2


def test_json(run: Run, kjv_checkpoint: Path) -> None:
    for arguments in (["é\n"], ["195 169 10", "--decode"]):
        assert json.loads(run("tokenize", kjv_checkpoint, *arguments, "--json").out) == {
            "schema": "rwkv-cy/tokenize/1",
            "tokenizer": "bytes",
            "vocab_size": 256,
            "text": "é\n",
            "bytes": 3,
            "count": 3,
            "tokens": [
                {"id": 195, "text": "\ufffd", "bytes": "c3"},
                {"id": 169, "text": "\ufffd", "bytes": "a9"},
                {"id": 10, "text": "\n", "bytes": "0a"},
            ],
        }


@pytest.mark.parametrize("ids", ["73 110", "73,110", "[73, 110]", " 73\n110\n"])
def test_ids_become_text(run: Run, kjv_checkpoint: Path, ids: str) -> None:
    assert run("tokenize", kjv_checkpoint, ids, "--decode").out == "In"


def test_ids_of_one_run_are_input_of_another(
    run: Run, kjv_checkpoint: Path, heldout: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = heldout[:5000].decode()
    ids = run("tokenize", kjv_checkpoint, text, "--ids").out
    monkeypatch.setattr(sys, "stdin", Stdin(ids.encode()))
    assert run("tokenize", kjv_checkpoint, "-", "--decode").out == text


def test_decoded_text_cannot_drive_the_terminal(
    run: Run, kjv_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert run("tokenize", kjv_checkpoint, "27 91 195 10", "--decode").code == 0
    assert terminal.getvalue() == "\\x1b[\\xc3\n\n"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("1 x", 'text: token 1: expected an id from 0 to 255, got "x"'),
        ("256", 'text: token 0: expected an id from 0 to 255, got "256"'),
        ("-1", 'text: token 0: expected an id from 0 to 255, got "-1"'),
        ("9" * 5000, "text: token 0: expected an id from 0 to 255, got"),
    ],
)
def test_what_are_not_ids(run: Run, kjv_checkpoint: Path, ids: str, message: str) -> None:
    result = run("tokenize", "--decode", kjv_checkpoint, "--", ids)
    assert (result.code, result.out) == (1, "")
    assert message in result.err
    assert len(result.err) < 200


def test_vocabularies(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(byte_level_json())
    result = run("tokenize", "--tokenizer", tmp_path / "tokenizer.json", "In the beginning 人", "--json")
    assert result.code == 0
    tokens = json.loads(result.out)["tokens"]
    assert "".join(bytes.fromhex(token["bytes"]).decode("latin-1") for token in tokens).encode("latin-1").decode() == (
        "In the beginning 人"
    )


def test_a_model_without_a_tokenizer(run: Run, tmp_path: Path) -> None:
    path = write_small(tmp_path / "s", vocab=300)
    result = run("tokenize", path, "a")
    assert (result.code, result.out) == (1, "")
    assert f"{path}: the model has no tokenizer; pass one with --tokenizer bytes, world or FILE" in result.err
    result = run("tokenize", write_small(tmp_path / "t", vocab=200), "a", "--tokenizer", "bytes")
    assert result.code == 1
    assert "expected a tokenizer of at most 200 tokens" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL is missing: the file whose tokenizer to use, or --tokenizer"),
        (["a.h5"], "'a.h5' was taken as MODEL, and TEXT is missing: the text itself, - for standard input, or --file"),
        (["--tokenizer", "bytes"], "TEXT is missing: the text itself, - for standard input, or --file FILE"),
        (["a.h5", "b", "-f", "c"], "two texts, TEXT and --file; leave one out"),
        (["a.h5", "b", "--ids", "--count"], "argument --count: not allowed with argument --ids"),
    ],
)
def test_wrong_command_lines(run: Run, arguments: list[str], message: str) -> None:
    result = run("tokenize", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_a_file_that_is_taken_as_text_is_warned_of(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").touch()
    result = run("tokenize", kjv_checkpoint, tmp_path / "t.txt", "--count")
    assert result.out == f"{len(str(tmp_path / 't.txt'))}\n"
    assert f"'{tmp_path / 't.txt'}' is taken as the text, and there is a file of that name; --file" in result.err


def test_the_tokenizer_of_a_model_on_the_hub(run: Run, hub: HubServer, kjv_checkpoint: Path) -> None:
    hub.repositories["o/n"] = Repository({"kjv.pth": kjv_checkpoint.read_bytes()})
    assert run("tokenize", "hf:o/n/kjv.pth", "hf:a/b", "--count").out == "6\n"
    assert run("tokenize", "--tokenizer", "bytes", "hf:a/b", "--count").out == "6\n"
