"""Tables and counts of pages that repeat what the checkout has elsewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fuzz.targets import TARGETS
from rwkv_cy import config
from rwkv_cy.cli.commands import COMMANDS
from rwkv_cy.formats.base import MAX_HEADER_BYTES, MAX_TENSORS
from rwkv_cy.formats.pickle_vm import MAX_PICKLE_BYTES
from rwkv_cy.formats.shards import MAX_SHARDS
from rwkv_cy.storage import arrays, schema
from tools.layers import layers

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
COMMAND = re.compile(r"`python -m (benchmarks|tools)\.(\w+)([^`]*)`")
#: Extras of people who use the package; the page sums up those of its developers.
EXTRAS = ("text", "world", "hub", "pretty", "fast", "grammar", "chat", "serve", "batch", "ray", "eval", "llm", "bench")

SPELLED = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def rows(page: Path) -> list[list[str]]:
    """Return the cells of every row of every table of a page."""
    lines = page.read_text("utf-8").splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]


def requirements(extras: dict[str, list[str]], name: str) -> set[str]:
    """Return the packages of an extra, and of those that it includes."""
    found = set()
    for requirement in extras[name]:
        if own := re.match(r"rwkv-cy\[([\w,]+)\]", requirement):
            found |= set().union(*(requirements(extras, other) for other in own[1].split(",")))
        else:
            found.add(re.split(r"[\[<>=]", requirement)[0].replace("lm_eval", "lm-eval"))
    return found


def unreleased() -> str:
    """Return what the list of changes says of versions to come; the rest is history, which stays as it is."""
    sections = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    return "".join(text for text in sections[1:] if "unreleased" in text.splitlines()[0].lower())


def numbers(text: str) -> list[int]:
    """Return the integers of a text."""
    return [int(digits.replace(",", "")) for digits in re.findall(r"\d[\d,]*", text)]


@pytest.mark.parametrize("name", EXTRAS)
def test_the_extras_install_what_the_page_says(name: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (said,) = (cells[1] for cells in rows(DOCS / "install.md") if cells[0] == f"`{name}`")
    assert set(said.removeprefix("the `").removesuffix("` package").split(", ")) == requirements(extras, name)


def test_every_extra_is_on_the_page() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    first = [cells[0] for cells in rows(DOCS / "install.md")]
    assert {name for cell in first for name in re.findall("`(\\w+)`", cell)} == set(extras)


def test_every_check_of_the_makefile_is_in_the_table() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    checks = {name for name in targets if name.startswith(("test", "fuzz")) or name in ("lint", "typecheck", "soak")}
    table = {cells[0] for cells in rows(ROOT / "CONTRIBUTING.md")}
    assert {name for name in checks if f"`make {name}`" not in table} == set()


def test_the_tests_that_make_test_leaves_out() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]["addopts"]
    (said,) = (cells[1] for cells in rows(ROOT / "CONTRIBUTING.md") if cells[0] == "`make test`")
    left_out = re.findall(r"not (\w+)", options[-1])
    assert {name.removesuffix("s") for name in re.findall(r"`(?:make )?test-(\w+)`", said)} == set(left_out)


def test_the_list_of_changes_has_every_command() -> None:
    for line in re.findall(r"^- `rwkv-cy` with (.*)\.$", unreleased(), re.MULTILINE):
        assert re.findall("`(\\w+)`", line) == list(COMMANDS)


def test_the_table_of_layers_has_every_package() -> None:
    packages = {name for names in layers() for name in names if (ROOT / "rwkv_cy" / name).is_dir()}
    assert packages == {name for cells in rows(DOCS / "layers.md") for name in re.findall(r"^`(\w+)/`", cells[-1])}


def test_the_guided_targets_of_fuzzing() -> None:
    page = rows(DOCS / "fuzzing.md")
    programs = {f"c-{path.stem.removeprefix('fuzz_')}" for path in (ROOT / "tests" / "c").glob("fuzz_*.c")}
    targets = {name for name, target in TARGETS.items() if target.guided} | programs - {"c-driver"}
    results = {cells[0]: cells for cells in page if len(cells) == 7 and cells[1].replace(",", "").isdigit()}
    assert set(results) == targets
    assert {name for cells in page if len(cells) == 2 for name in re.findall(r"`([\w-]+)`", cells[0])} == targets
    assert set(re.findall(r"(\d+) targets", unreleased())) <= {str(len(targets))}


def test_the_sums_and_findings_of_fuzzing() -> None:
    text = (DOCS / "fuzzing.md").read_text("utf-8")
    seconds = {cells[0]: int(cells[2]) for cells in rows(DOCS / "fuzzing.md") if len(cells) == 7 and cells[2].isdigit()}
    (avx512,) = re.findall(r"of ((?:`[\w-]+`(?:, | and )?)+) on one with AVX-512", text)
    second = sum(seconds[name] for name in re.findall("`([\\w-]+)`", avx512))
    first = sum(seconds.values()) - second
    assert [int(said.replace(",", "")) for said in re.findall(r"([\d,]+) CPU seconds in all", text)] == [first, second]
    kept = {path.name for path in (ROOT / "tests" / "fuzz" / "findings").iterdir()}
    assert set(re.findall(r"^- `([\w-]+)`: ", text, re.MULTILINE)) == kept


def test_the_wheels_are_those_that_are_built() -> None:
    tags = re.findall(r'Platform\("(\w+)"', (ROOT / "tools" / "wheels.py").read_text("utf-8"))
    page = rows(DOCS / "wheels.md")
    assert [name for cells in page for name in re.findall("^`cp311-abi3-(\\w+)`$", cells[0])] == tags
    assert set(re.findall(r"each of (\w+) platforms", unreleased())) <= {SPELLED[len(tags)]}


def test_the_limits_of_large_models() -> None:
    expected = {
        "tensors in a file": [MAX_TENSORS, schema.MAX_DATASETS],
        "elements of a tensor": [2, schema.MAX_ELEMENTS.bit_length() - 1],
        "width, vocabulary, layers": [2, config._LARGEST.bit_length() - 1],
        "description of the tensors": [MAX_HEADER_BYTES >> 20, MAX_PICKLE_BYTES >> 20],
        "files of a model in shards": [MAX_SHARDS],
        "states in a file": [arrays._MAX_BYTES >> 21],
    }
    page = rows(DOCS / "large.md")
    assert {what: numbers(said) for what, said, *_ in page if what in expected} == expected


def test_the_commands_that_pages_name_are_there() -> None:
    """Modules of ``benchmarks`` and ``tools``, and the options with which pages name them."""
    pages = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(DOCS / "adr").glob("*.md")]
    named = {found for page in pages for found in COMMAND.findall(page.read_text("utf-8"))}
    assert len(named) > 20
    missing = [f"{folder}.{name}" for folder, name, _ in named if not (ROOT / folder / f"{name}.py").is_file()]
    sources = {
        folder: "".join(path.read_text("utf-8") for path in (ROOT / folder).glob("*.py"))
        for folder in ("benchmarks", "tools")
    }
    for folder, name, words in named:
        options = re.findall(r"--[a-z-]+", words)
        missing += [f"{folder}.{name} {option}" for option in options if f'"{option}"' not in sources[folder]]
    assert missing == []
