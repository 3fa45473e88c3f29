"""docs/serve.md: its examples run, its paths are those of the server, its limits are the defaults."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

import pytest

from pages import ROOT, blocks
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.server.app import ROUTES
from rwkv_cy.server.settings import Limits, Settings
from server.running import Client, running

PAGE = ROOT / "docs" / "serve.md"
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def server(kjv: LanguageModel) -> Iterator[Client]:
    with running(kjv, Settings("kjv")) as client:
        yield client


def curls() -> list[str]:
    text = "\n".join(block.text for block in blocks(PAGE) if block.language == "bash")
    return re.findall(r"^curl .*?(?=^curl |\Z)", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("command", curls(), ids=[shlex.split(command)[2] for command in curls()])
def test_a_command_of_the_page(server: Client, command: str) -> None:
    words = shlex.split(command)
    method = words[words.index("-X") + 1] if "-X" in words else "POST"
    (address,) = (word for word in words if word.startswith(ADDRESS))
    body = json.loads(words[words.index("-d") + 1]) if "-d" in words else None
    answer = server(method, address.removeprefix(ADDRESS), body)
    assert answer.status == 200, answer.data
    assert answer.json


def test_the_python_of_the_page(server: Client, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai", reason="runs an example with the openai client")
    (block,) = (block for block in blocks(PAGE) if block.language == "python")
    names: dict[str, object] = {}
    exec(compile(block.text.replace(ADDRESS, server.url), PAGE.name, "exec"), names)
    names["client"].close()  # type: ignore[attr-defined]
    assert len(capsys.readouterr().out) > 20


def test_the_page_has_every_path() -> None:
    text = PAGE.read_text("utf-8")
    assert len(curls()) == 6
    for _, path, _, _ in ROUTES:
        last = "/" + path.rsplit("/", 1)[-1]
        assert path in text or last in text, path


def test_the_page_has_the_limits() -> None:
    limits, text = Limits(), PAGE.read_text("utf-8")
    for value in (
        f"{limits.body_bytes >> 20} MiB (`--max-body`), in {limits.body_seconds:g} s",
        f"{limits.request_seconds:g} s (`--timeout`)",
        f"| {limits.queue} (`--queue`)",
        f"| {limits.max_tokens} (`--max-tokens`)",
        f"| tokens of a prompt | {limits.prompt_tokens:,} |",
        f"| answers to a request | {limits.choices} |",
        f"| stop strings | {limits.stops}, of 1,000 characters |",
        f"| JSON schema | {limits.schema_bytes >> 10} KiB |",
        f"up to {limits.state_bytes >> 20} MiB of memory",
    ):
        assert value in text, value


def test_the_tests_that_the_page_names_are_there() -> None:
    named = []
    for part in re.findall(r"`\w+/test_\w+\.py`: [^;|]+", PAGE.read_text("utf-8")):
        file, tests = part.split("`: ")
        named += [(file.strip("`"), test.strip()) for test in tests.split(",")]
    assert len(named) > 70
    missing = [
        (file, test)
        for file, test in named
        if not re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text("utf-8"), re.MULTILINE)
    ]
    assert missing == []
