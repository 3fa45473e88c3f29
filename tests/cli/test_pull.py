from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from checkpoints import write_small
from cli.conftest import Run
from hub.server import COMMIT, Fault, HubServer, Repository


@pytest.fixture
def repository(hub: HubServer, tmp_path: Path) -> Repository:
    """Return a repository o/n with two models."""
    small = write_small(tmp_path / "made.safetensors").read_bytes()
    hub.repositories["o/n"] = Repository({"g1-0.1b.safetensors": small, "g1-0.4b.pth": small * 2, "README.md": b"x"})
    return hub.repositories["o/n"]


def test_a_model_is_pulled(run: Run, hub: HubServer, repository: Repository) -> None:
    result = run("pull", "hf:o/n", "--file", "*0.1b*")
    assert (result.code, result.err) == (0, "")
    assert f"commit      {COMMIT}" in result.out
    assert "kind        safetensors" in result.out
    data = repository.files["g1-0.1b.safetensors"]
    assert f"sha256      {hashlib.sha256(data).hexdigest()}" in result.out
    assert "kB, compared with its hash" in result.out
    path = Path(result.out.splitlines()[-1].split()[-1])
    assert path.read_bytes() == repository.files["g1-0.1b.safetensors"]
    assert "downloaded  nothing: it is here" in run("pull", "hf:o/n", "--file", "*0.1b*").out
    assert run("pull", "hf:o/n/g1-0.1b.safetensors", "--quiet").out == f"{path}\n"
    report = json.loads(run("pull", "hf:o/n", "--file", "*0.1b*", "--json").out)
    assert (report["path"], report["commit"], report["files"][0]["path"]) == (str(path), COMMIT, str(path))
    assert (report["name"], report["revision"]) == ("hf:o/n/g1-0.1b.safetensors", "main")


def test_a_choice_is_shown_with_sizes(run: Run, repository: Repository) -> None:
    result = run("pull", "hf:o/n")
    assert result.code == 3
    assert "g1-0.4b.pth          " in result.err
    assert "expected one model, found 2: g1-0.1b.safetensors (" in result.err
    assert "name one, as hf:o/n/g1-0.1b.safetensors" in result.err
    result = run("pull", "hf:o/n", "--list")
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()[2:4]] == ["g1-0.1b.safetensors", "g1-0.4b.pth"]
    assert [model["name"] for model in json.loads(run("pull", "o/n", "--list", "--json").out)["models"]] == [
        "hf:o/n/g1-0.1b.safetensors",
        "hf:o/n/g1-0.4b.pth",
    ]
    result = run("pull", "hf:o/n", "--file", "*7b*")
    assert "'*7b*' matches none; the repository has g1-0.1b.safetensors (" in result.err


def test_names_of_a_hostile_repository_do_not_reach_the_terminal(run: Run, repository: Repository) -> None:
    repository.files = {"a\x1b[2J.pth": b"x", "../b.pth": b"y", "ok.pth": b"z"}
    result = run("pull", "hf:o/n", "--list")
    assert "2 files have names that are not safe paths; they are left out" in result.err
    assert "\x1b" not in result.out + result.err
    assert "ok.pth" in result.out


@pytest.mark.parametrize(
    "command",
    [["inspect", "NAME", "--no-tensors"], ["verify", "NAME"], ["convert", "NAME", "m.h5"], ["diff", "NAME", "NAME"]],
    ids=lambda command: command[0],
)
def test_every_command_takes_the_name(
    run: Run, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "hf:o/n/g1-0.1b.safetensors"
    result = run(*(name if word == "NAME" else word for word in command))
    assert (result.code, result.err) == (0, "")
    assert run(*(f"{name}@{COMMIT}" if word == "NAME" else word for word in command), *["--force"][: "m.h5" in command])


def test_generate_and_its_options(run: Run, repository: Repository, tmp_path: Path) -> None:
    repository.files["tok/vocab.json"] = b"{}"
    result = run("generate", "hf:o/n/g1-0.1b.safetensors", "hf:o/n", "--max-tokens", "2", "--tokenizer", "bytes")
    assert result.code == 0
    result = run("generate", "hf:o/n/g1-0.1b.safetensors", "x", "--tokenizer", "hf:o/missing/tokenizer.json")
    assert (result.code, "hf:o/missing/tokenizer.json: " in result.err) == (3, True)


def test_a_target_cannot_be_on_the_hub(run: Run, repository: Repository, small: Path) -> None:
    for command in ("convert", "export"):
        result = run(command, small, "hf:o/n/x.h5")
        assert (result.code, "hf:o/n/x.h5: expected a path on this machine to write to" in result.err) == (3, True)
    assert run("pull", "hf:o/n", "--into", "hf:o/n").code == 3


def test_pull_puts_files_where_they_are_wanted(run: Run, repository: Repository, tmp_path: Path) -> None:
    assert run("pull", "hf:o/n", "--file", "g1*", "--all", "--into", tmp_path / "all", "--quiet").code == 0
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["g1-0.1b.safetensors", "g1-0.4b.pth"]
    target = tmp_path / "x.safetensors"
    assert run("pull", "hf:o/n/g1-0.1b.safetensors", "--to", target, "--quiet").out == f"{target}\n"
    target.write_bytes(b"mine")
    result = run("pull", "hf:o/n/g1-0.1b.safetensors", "--to", target)
    assert (result.code, "already exists" in result.err) == (3, True)
    assert run("pull", "hf:o/n/g1-0.1b.safetensors", "--to", target, "--force").code == 0
    assert run("pull", "hf:o/n", "--to", target, "--into", tmp_path).code == 2


def test_offline(run: Run, spawn: Run, repository: Repository) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    name = "hf:o/n/g1-0.1b.safetensors"
    result = spawn("inspect", name, env=environment)
    assert (result.code, "it is not in the cache, and HF_HUB_OFFLINE forbids requests" in result.err) == (3, True)
    assert run("pull", name).code == 0
    assert spawn("inspect", name, env=environment).code == 0


def test_settings_come_from_the_environment(spawn: Run, hub: HubServer, repository: Repository) -> None:
    repository.private = True
    name = "hf:o/n/g1-0.1b.safetensors"
    result = spawn("pull", name)
    assert (result.code, "log in with 'hf auth login', or set HF_TOKEN" in result.err) == (3, True)
    result = spawn("pull", name, "--debug", env={**os.environ, "HF_TOKEN": "hf_wrongwrongwrongwrong"})
    assert "hf_wrong" not in result.out + result.err
    result = spawn("pull", name, env={**os.environ, "HF_TOKEN": hub.token})
    assert (result.code, result.err) == (0, "")
    assert hub.token not in result.out
    home = Path(os.environ["HF_HOME"])
    assert str(home) in result.out
    repository.commit = "d" * 40
    repository.files["g1-0.1b.safetensors"] += b"."
    (home / "token").write_text(hub.token)
    assert spawn("pull", name).code == 0


def test_an_interrupt_keeps_what_has_arrived(hub: HubServer, repository: Repository, run: Run) -> None:
    data = bytes(range(256)) * 40_000
    repository.files["big.pth"] = data
    # The first answer ends early, and the next attempt waits: that is when the interrupt comes.
    hub.faults["big.pth"] = [Fault(cut=5_000_000), *[Fault(status=503)] * 20]
    process = subprocess.Popen(
        [sys.executable, "-m", "rwkv_cy", "pull", "hf:o/n/big.pth"], stderr=subprocess.PIPE, text=True
    )
    try:
        while len(hub.gets("big.pth")) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "what has arrived is kept: the same command continues there\nrwkv-cy: interrupted\n" in err
    hub.faults["big.pth"] = []
    assert run("pull", "hf:o/n/big.pth").code == 0
    start = int(hub.gets("big.pth")[-1]["Range"][6:-1])
    assert 0 < start <= 5_000_000


def test_known_models_are_listed(run: Run) -> None:
    result = run("models")
    assert (result.code, result.err) == (0, "")
    assert "rwkv7-g1-13.3b" in result.out
    result = run("models", "g1", "2.9b")
    assert [line.split()[0] for line in result.out.splitlines()[2:3]] == ["rwkv7-g1-2.9b"]
    models = json.loads(run("models", "pile-169m", "--json").out)["models"]
    assert models[0]["repository"] == "BlinkDL/rwkv-4-pile-169m"


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        (["13b"], {"13.3b"}),
        (["14B"], {"14b"}),
        (["3b"], {"2.9b", "3b"}),
        (["1b5"], {"1.5b"}),
        (["g1", "7b"], {"7.2b"}),
        (["169m"], {"169m"}),
    ],
)
def test_models_of_about_a_size(run: Run, words: list[str], sizes: set[str]) -> None:
    names = [model["name"] for model in json.loads(run("models", *words, "--json").out)["models"]]
    assert {name.rpartition("-")[2] for name in names} == sizes


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["llama"], "'llama'; rwkv-cy models lists all of them"),
        (["wrold"], "'wrold'; did you mean world? rwkv-cy models lists all of them"),
        (["70b"], "'70b'; sizes are 0.1b, 168m, 169m, 0.4b, 421m, 430m, 1.5b, 1.6b, 2.9b, 3b, 7b, 7.2b, 13.3b, 14b; "),
        (["raven", "g1"], "'raven g1'; each word alone matches some; rwkv-cy models lists all of them"),
    ],
)
def test_words_that_no_known_model_has(run: Run, words: list[str], advice: str) -> None:
    result = run("models", *words)
    assert (result.code, result.out) == (3, "")
    assert f"no known model matches {advice}" in result.err


def test_a_known_model_is_pulled_by_its_short_name(run: Run, hub: HubServer, repository: Repository) -> None:
    file = "RWKV-4-Pile-169M-20220807-8023.pth"
    hub.repositories["BlinkDL/rwkv-4-pile-169m"] = Repository({file: b"weights", "other.pth": b"x"})
    assert run("pull", "rwkv4-pile-169m", "--quiet").out.endswith(f"/{file}\n")
    result = run("pull", "0.1b")
    assert (result.code, "rwkv7-world-0.1b" in result.err) == (3, True)


def test_a_known_model_in_place_of_a_path_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["inspect", "rwkv4-pile-169m"], ["generate", "RWKV4-pile-169M", "x"]):
        result = run(*command)
        assert result.code == 3
        assert (
            f"{command[1]}: no such file or folder; did you mean hf:BlinkDL/rwkv-4-pile-169m/RWKV-4-Pile" in result.err
        )
        assert f"(rwkv-cy pull {command[1]} downloads it)" in result.err
    (tmp_path / "rwkv4-pile-169m").write_bytes(b"something else")
    assert "did you mean" not in run("inspect", "rwkv4-pile-169m").err
    assert "did you mean" not in run("inspect", "rwkv-of-mine").err
    assert "did you mean" not in run("convert", tmp_path / "rwkv4-pile-169m", "rwkv4-pile-430m").err
