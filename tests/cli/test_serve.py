"""``rwkv-cy serve``: starts, answers, ends; and what it refuses."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.conftest import Run

for _name in ("msgspec", "prometheus_client", "starlette", "uvicorn"):
    pytest.importorskip(_name, reason="the server needs the extra serve")


@contextmanager
def served(*words: str) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """Start a server; give the process, its port and its first line."""
    command = [sys.executable, "-m", "rwkv_cy", "serve", "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            port = re.search(r":(\d+)/v1", line)
            assert port is not None, process.communicate(timeout=300)
            yield process, int(port[1]), line
        finally:
            process.kill()


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_starts_and_ends(number: signal.Signals) -> None:
    with served("--name", "mine", "--alias", "other", "--format", "g1") as (process, port, line):
        assert line == f"mine: http://127.0.0.1:{port}/v1, format g1\n"
        status, data = get(port, "/v1/models")
        assert status == 200
        assert [model["id"] for model in json.loads(data)["data"]] == ["mine", "other"]
        assert get(port, "/", host="evil.example")[0] == 403
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, "")
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["event"] for line in lines] == ["started", "request", "request", "ended"]


def test_a_model_whose_name_is_not_utf_8(kjv_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "\udcff.pth"
    path.symlink_to(kjv_checkpoint)
    with served(str(path)) as (_, port, _line):
        assert json.loads(get(port, "/v1/models")[1])["data"][0]["id"] == "\\udcff"


def test_keys_and_quiet(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("# for me\nmy-own-key\n")
    with served("--api-key-file", str(keys), "--quiet", "--no-page", "--allow-host", "box.lan") as (process, port, _):
        assert get(port, "/v1/models")[0] == 401
        assert get(port, "/v1/models", authorization="Bearer my-own-key", host="box.lan")[0] == 200
        assert get(port, "/")[0] == 404
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=300) == ("", "")
    assert process.returncode == 0


def test_an_address_in_use(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        result = run("serve", "--port", other.getsockname()[1])
    assert (result.code, result.out) == (3, "")
    assert re.fullmatch(r"rwkv-cy: error: 127\.0\.0\.1:\d+: cannot listen there: .*\n", result.err)


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (("--host", "0.0.0.0"), 1, "others reach this address; give --api-key-file FILE, or --no-api-key"),
        (("--host", "no such host"), 1, "others reach this address"),
        (("--host", "no.such.host.invalid", "--no-api-key"), 3, "cannot listen there"),
        (("--api-key-file", "missing.txt"), 3, "missing.txt"),
        (("--state-folder", "missing"), 1, "--state-folder missing: expected a folder; create it first"),
        (("--state-folder", "file"), 1, "--state-folder file: expected a folder, got a file; name another one"),
        (("--cache-folder", "file"), 3, "cannot be a folder for states: Not a directory; name another one"),
        (("--format", "chatml"), 1, "format: expected auto, world, g1 or a .jinja file, got 'chatml'"),
        (("--thinking", "deeply"), 2, "choose from on, fake, off"),
        (("--port", "70000"), 2, "65535"),
        (("--alias", ""), 2, "argument --alias: expected at least one character, got an empty text"),
        (("--name", ""), 2, "argument --name: expected at least one character, got an empty text"),
        (("missing.pth",), 3, "missing.pth"),
    ],
)
def test_what_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    result = run("serve", "--port", "0", *words)
    assert result.code == code
    assert problem in result.err
    assert result.out == ""


def test_a_key_that_is_short(run: Run, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("secret\n")
    result = run("serve", "--api-key-file", tmp_path / "keys")
    assert result.code == 1
    assert "key 1: expected at least 8 characters" in result.err
    assert "secret" not in result.err


def test_packages_that_are_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from rwkv_cy.cli import serve

    monkeypatch.setattr(serve, "_PACKAGES", ("uvicorn", "no_such_package"))
    result = run("serve")
    assert result.code == 1
    assert result.err == "rwkv-cy: error: serve needs no_such_package: pip install 'rwkv-cy[serve]'\n"
