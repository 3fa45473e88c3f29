from __future__ import annotations

import io
import json
import sys

import pytest

from rwkv_cy.cli import output


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_600, "1.00 MB"),
        (2_731_579, "2.73 MB"),
        (1_719_000_000, "1.72 GB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert output.byte_size(count) == text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text", "plain text"),
        ("é 中 🙂", "é 中 🙂"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb\nc\x00\x07\x9b", "a\\rb\\nc\\x00\\x07\\x9b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\udc80", "\\udc80"),
    ],
)
def test_what_a_terminal_could_obey_is_escaped(raw: str, shown: str) -> None:
    assert output.printable(raw) == shown


def test_characters_to_keep_stay() -> None:
    assert output.printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_table_aligns_and_escapes() -> None:
    lines = output.table(("name", "size"), [("a\x1b", "1"), ("b", "100")], right=("size",))
    assert lines == ["name   size", "-----  ----", "a\\x1b     1", "b       100"]


def test_a_table_without_rows_is_its_header() -> None:
    assert output.table(("a", "b"), []) == ["a  b", "-  -"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("columns", "is_stacked"), [(24, True), (25, False), (80, False)])
def test_a_table_wider_than_the_terminal_is_stacked(
    monkeypatch: pytest.MonkeyPatch, columns: int, is_stacked: bool
) -> None:
    header, rows = ("tensor", "shape", "bytes"), [("emb.weight", "6 x 32", "768"), ("\x1b", "-", "1")]
    monkeypatch.setitem(sys.modules, "rich.table", None)  # not installed
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    monkeypatch.setenv("COLUMNS", str(columns))
    output.print_table(header, rows, right=("bytes",))
    lines = screen.getvalue().splitlines()
    assert all(len(line) <= columns for line in lines)
    if is_stacked:
        assert lines == ["emb.weight", "  shape 6 x 32", "  bytes 768", "\\x1b", "  shape -, bytes 1"]
    else:
        assert lines == output.table(header, rows, right=("bytes",))


def test_a_table_in_a_pipe_is_never_stacked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "3")
    output.print_table(("a", "b"), [("long", "row")])
    assert capsys.readouterr().out == "a     b\n----  ---\nlong  row\n"


def test_fields_stand_in_two_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_fields({"a": "1", "long name": "x\x1b", "empty": ""})
    assert capsys.readouterr().out == "a          1\nlong name  x\\x1b\nempty\n"


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"name": "é\x1b"})
    text = capsys.readouterr().out
    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text) == {"name": "é\x1b"}


def test_errors_and_warnings_are_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_error("two\nlines")
    output.print_warning("odd \x1b name")
    captured = capsys.readouterr()
    assert captured.err == "rwkv-cy: error: two\\nlines\nrwkv-cy: warning: odd \\x1b name\n"
    assert captured.out == ""


def test_rich_prints_tables_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    header, rows = ("tensor", "bytes"), [("emb.weight", "768"), ("[bold]x[/] :smile: \x1b", "1")]
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    output.print_table(header, rows, right=("bytes",))
    lines = [line.rstrip() for line in screen.getvalue().splitlines()]
    assert lines == [
        "tensor                   bytes",
        "emb.weight                 768",
        "[bold]x[/] :smile: \\x1b      1",
    ]


def test_fields_are_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    monkeypatch.setenv("COLUMNS", "30")
    output.print_fields({"a": "one two three four five six", "long name": "a" * 40})
    assert screen.getvalue().splitlines() == [
        "a          one two three four",
        "           five six",
        "long name  " + "a" * 40,
    ]
