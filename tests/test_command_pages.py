"""docs/commands: a page for each command, whose examples run, with all of its options and JSON fields."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from checkpoints import write_safetensors
from hub.server import Repository
from pages import EXIT_CODE, ROOT, Command, blocks, run_commands, run_pipeline
from rwkv_cy.toolkit.convert import convert
from toolkit.adapters import draw
from tools.command_pages import FOLDER, commands, with_options

COMMANDS = commands()
PAGES = sorted(FOLDER.glob("*.md"))
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
TEXT = (
    "In the beginning God created the heaven and the earth.\nAnd God said, Let there be light: and there was light.\n"
)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory, kjv_checkpoint: Path) -> Path:
    """Return kjv.pth as a model file."""
    path = tmp_path_factory.mktemp("pages") / "model.h5"
    convert(kjv_checkpoint, path)
    return path


@pytest.fixture
def workplace(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_file: Path
) -> Path:
    """Return the folder that the examples run in: what docs/cli.md says is in it."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "model.h5").write_bytes(model_file.read_bytes())
    (tmp_path / "text.txt").write_text(TEXT)
    write_adapter(tmp_path)
    if request.node.callspec.params["page"].stem == "pull":
        files = {"rwkv7-g1d-0.1b-20260129-ctx8192.pth": (ROOT / "data" / "kjv.pth").read_bytes(), "README.md": b""}
        request.getfixturevalue("hub").repositories["BlinkDL/rwkv7-g1"] = Repository(files)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_adapter(folder: Path) -> None:
    """Write a LoRA of kjv.pth."""
    name = "blocks.0.att.key.lora"
    write_safetensors(folder / "adapter.safetensors", {f"{name}_A": draw(4, 128), f"{name}_B": draw(128, 4)})


def section(page: Path, title: str) -> str:
    """Return the text below a heading."""
    parts = HEADING.split(page.read_text("utf-8"))
    return parts[parts.index(title) + 1]


def json_commands(page: Path) -> list[Command]:
    """Return the commands of a page that print JSON."""
    return [command for block in blocks(page) for command in block.commands() if "--json" in command.line]


def test_every_command_has_a_page() -> None:
    assert {page.stem for page in PAGES} == set(COMMANDS)
    overview = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert set(re.findall(r"^\| .*\(commands/([\w-]+)\.md\)", overview, re.MULTILINE)) <= set(COMMANDS)
    assert all(f"](commands/{name}.md)" in overview for name in COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_options_are_those_of_the_parser(page: Path) -> None:
    """Write them with ``python -m tools.command_pages``."""
    text = page.read_text("utf-8")
    assert with_options(text, COMMANDS[page.stem]) == text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_its_sections(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.startswith(f"# {page.stem}\n\n")
    sections = HEADING.findall(text)
    assert {"Examples", "Options", "Exit codes"} <= set(sections)
    options = {option for action in COMMANDS[page.stem]._actions for option in action.option_strings}
    assert ("JSON" in sections) == ("--json" in options)
    assert ("Files" in sections) == ("--force" in options or page.stem in ("batch", "shard", "join", "pull"))


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_print_what_the_page_shows(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert page.stem in run_commands(page, capsys, strict=True)


@pytest.mark.parametrize("page", [page for page in PAGES if json_commands(page)], ids=lambda page: page.stem)
def test_the_json_has_the_fields_of_the_page(page: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first column of the table lists the members of the object, those of objects within it after a dot."""
    named = re.findall(r"^\| (`[^|]+) \|", section(page, "JSON"), re.MULTILINE)
    fields = {name for cell in named for name in re.findall(r"`([^`]+)`", cell)}
    for command in (command for block in blocks(page) for command in block.commands()):
        printed = run_pipeline(command, capsys)
        if "--json" in EXIT_CODE.sub("", command.line):
            assert next(iter(json.loads(printed).items()))[1].startswith("rwkv-cy/"), command.line
            assert set(json.loads(printed)) == {name for name in fields if "." not in name}, command.line
    assert workplace.is_dir()


def test_an_option_that_is_missing_on_a_page_is_noticed() -> None:
    page = (FOLDER / "tokenize.md").read_text("utf-8")
    changed = page.replace("| `--decode` |", "| `--deocde` |")
    assert changed != page
    assert with_options(changed, COMMANDS["tokenize"]) == page
    with pytest.raises(ValueError, match="expected a page with <!-- options"):
        with_options("# tokenize\n", COMMANDS["verify"])
