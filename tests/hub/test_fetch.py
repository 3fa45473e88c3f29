from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import rwkv_cy
from hub.server import COMMIT, OLDER, Fault, HubServer, Repository, serve
from rwkv_cy.checkpoint.tokenizer_choice import named_tokenizer
from rwkv_cy.errors import HubError, StorageError
from rwkv_cy.hub import local_path, transfer
from rwkv_cy.hub_names import HubName
from rwkv_cy.toolkit.pull import pull

NAME = "hf:o/n/model.pth"
DATA = np.random.default_rng(1).bytes(3 << 20)


@pytest.fixture
def repository(hub: HubServer) -> Repository:
    """Return a repository o/n with one model in it."""
    hub.repositories["o/n"] = Repository({"model.pth": DATA, "README.md": b"hello"})
    return hub.repositories["o/n"]


def blobs(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "hub-home/hub/models--o--n/blobs").iterdir())


def test_a_file_is_downloaded_once_and_then_in_the_cache(hub: HubServer, repository: Repository) -> None:
    seen: list[tuple[int, int]] = []
    report = pull("hf:o/n", progress=lambda done, total: seen.append((done, total)))
    assert report.path.read_bytes() == DATA
    assert (report.commit, report.downloaded, report.size) == (COMMIT, len(DATA), len(DATA))
    assert (str(report.name), str(report.pinned)) == (NAME, f"{NAME}@{COMMIT}")
    assert (seen[0], seen[-1]) == ((0, len(DATA)), (len(DATA), len(DATA)))
    assert report.path.parent.name == COMMIT
    assert pull("hf:o/n").downloaded == 0
    before = len(hub.requests)
    assert local_path(NAME) == report.path
    assert local_path(Path(NAME)) == report.path
    assert len(hub.requests) == before
    assert len(hub.gets("model.pth")) == 1


def test_other_programs_find_the_file_in_the_cache(hub: HubServer, repository: Repository) -> None:
    library = pytest.importorskip("huggingface_hub")
    path = pull("hf:o/n").path
    home = library.constants.HF_HUB_CACHE
    assert library.try_to_load_from_cache("o/n", "model.pth", cache_dir=home) == str(path)
    assert library.hf_hub_download("o/n", "model.pth", cache_dir=home) == str(path)
    assert library.hf_hub_download("o/n", "model.pth", cache_dir=home, local_files_only=True) == str(path)
    assert len(hub.gets("model.pth")) == 1


def test_what_other_programs_have_downloaded_is_taken(hub: HubServer, repository: Repository) -> None:
    library = pytest.importorskip("huggingface_hub")
    path = library.hf_hub_download("o/n", "model.pth", cache_dir=library.constants.HF_HUB_CACHE)
    assert len(hub.gets("model.pth")) == 1
    assert local_path(NAME) == Path(path)
    assert pull("hf:o/n").downloaded == 0
    assert len(hub.gets("model.pth")) == 1


def test_a_cut_connection_is_resumed(hub: HubServer, repository: Repository) -> None:
    hub.faults["model.pth"] = [Fault(cut=1_000_000), Fault(cut=700_000), Fault(status=503), Fault(status=429)]
    assert pull("hf:o/n").path.read_bytes() == DATA
    starts = [int(headers.get("Range", "bytes=0-")[6:-1]) for headers in hub.gets("model.pth")]
    assert starts[0] == 0
    assert 0 < starts[1] <= 1_000_000
    assert starts[1] < starts[2] <= 1_700_000
    assert starts[2:] == [starts[2]] * 3


def test_an_interrupted_download_continues_later(
    hub: HubServer, repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(transfer, "_PAUSES", ())
    hub.faults["model.pth"] = [Fault(cut=2_000_000)]
    with pytest.raises(HubError, match=f"hf:o/n/model.pth@{COMMIT}: no answer from {hub.url}"):
        pull("hf:o/n")
    (partial,) = blobs(tmp_path)
    assert partial.endswith(".rwkv_cy.incomplete")
    done: list[int] = []
    assert pull("hf:o/n", progress=lambda count, total: done.append(count)).path.read_bytes() == DATA
    assert 0 < done[0] <= 2_000_000
    assert hub.gets("model.pth")[-1]["Range"] == f"bytes={done[0]}-"
    assert blobs(tmp_path) == [hashlib.sha256(DATA).hexdigest()]


def test_a_server_without_ranges_sends_the_whole_file_again(hub: HubServer, repository: Repository) -> None:
    hub.faults["model.pth"] = [Fault(cut=1_500_000), Fault(no_range=True)]
    done: list[int] = []
    assert pull("hf:o/n", progress=lambda count, total: done.append(count)).path.read_bytes() == DATA
    assert 0 in done[1:]
    assert done[-1] == len(DATA)


@pytest.mark.parametrize("cut", [True, False])
def test_a_server_that_always_begins_anew_is_given_up(hub: HubServer, repository: Repository, cut: bool) -> None:
    sizes = [1_000_000, *(900_000, 950_000) * 9]
    hub.faults["model.pth"] = [
        Fault(no_range=True, cut=size) if cut else Fault(no_range=True, change=lambda data, size=size: data[:size])
        for size in sizes
    ]
    with pytest.raises(HubError, match="no answer from" if cut else f"expected {len(DATA)} bytes, got 9"):
        pull("hf:o/n")
    assert len(hub.gets("model.pth")) <= 10


def test_a_wrong_range_is_not_written(hub: HubServer, repository: Repository, tmp_path: Path) -> None:
    hub.faults["model.pth"] = [Fault(cut=1_000_000), *[Fault(range_from=7)] * 5]
    with pytest.raises(HubError, match="expected the bytes from 1?[0-9]+, got status 206 and 'bytes "):
        pull("hf:o/n")
    (partial,) = blobs(tmp_path)
    size = (tmp_path / "hub-home/hub/models--o--n/blobs" / partial).stat().st_size
    assert pull("hf:o/n").path.read_bytes() == DATA
    assert size > 0


def test_a_damaged_download_is_removed(hub: HubServer, repository: Repository, tmp_path: Path) -> None:
    hub.faults["model.pth"] = [Fault(change=lambda data: data[:-1] + b"?")]
    with pytest.raises(HubError, match=f"model.pth: expected a file with the hash {hashlib.sha256(DATA).hexdigest()}"):
        pull("hf:o/n")
    assert blobs(tmp_path) == []
    assert pull("hf:o/n").path.read_bytes() == DATA


def test_a_damaged_part_of_an_earlier_attempt_is_noticed(
    hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    partial = tmp_path / f"hub-home/hub/models--o--n/blobs/{hashlib.sha256(DATA).hexdigest()}.rwkv_cy.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(100))
    with pytest.raises(HubError, match="it was damaged on its way and has been removed"):
        pull("hf:o/n")
    partial.write_bytes(DATA + b"more")
    assert pull("hf:o/n").path.read_bytes() == DATA


def test_a_server_that_sends_without_end_is_stopped(hub: HubServer, repository: Repository, tmp_path: Path) -> None:
    hub.faults["model.pth"] = [Fault(change=lambda data: data * 3)]
    with pytest.raises(HubError, match=f"expected {len(DATA)} bytes, got more"):
        pull("hf:o/n")
    sizes = [path.stat().st_size for path in (tmp_path / "hub-home/hub/models--o--n/blobs").iterdir()]
    assert max(sizes) <= len(DATA)


def test_a_server_that_sends_too_little_is_given_up(hub: HubServer, repository: Repository) -> None:
    hub.faults["model.pth"] = [Fault(change=lambda data: b"")] * 9
    with pytest.raises(HubError, match=f"expected {len(DATA)} bytes, got 0; try again later"):
        pull("hf:o/n")
    assert len(hub.gets("model.pth")) == 5


@pytest.mark.parametrize(("status", "attempts"), [(500, 5), (503, 5), (404, 1), (418, 1)])
def test_errors_of_the_server(hub: HubServer, repository: Repository, status: int, attempts: int) -> None:
    hub.faults["model.pth"] = [Fault(status=status)] * 9
    with pytest.raises(HubError, match=f"hf:o/n/model.pth.*: {hub.url} answered with status {status}"):
        pull("hf:o/n")
    assert len(hub.gets("model.pth")) == attempts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:o/missing", "has no such repository, or it is private; check the name, or log in with 'hf auth login'"),
        ("hf:o/n@v9", "o/n has no revision 'v9'; check the branch, tag or commit"),
        ("hf:o/private", "has no such repository, or it is private"),
        ("hf:o/n/missing.pth", "'missing.pth' matches none"),
    ],
)
def test_what_the_hub_does_not_have(hub: HubServer, repository: Repository, name: str, message: str) -> None:
    hub.repositories["o/private"] = Repository({"a.pth": b"x"}, private=True)
    with pytest.raises(HubError, match=message) as error:
        local_path(name)
    assert str(error.value).startswith(f"{name}: ")


def test_a_gated_repository(hub: HubServer, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.gated = True
    with pytest.raises(HubError, match=f"its owner grants access on request: ask for it at {hub.url}/o/n, then log in"):
        pull("hf:o/n")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert pull("hf:o/n").path.read_bytes() == DATA


def test_the_token_is_sent_to_the_hub_alone_and_never_shown(
    hub: HubServer, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    repository.private = True
    with serve() as elsewhere:
        elsewhere.repositories["o/n"] = Repository({"model.pth": DATA})
        address = elsewhere.url.replace("127.0.0.1", "localhost")
        hub.faults["model.pth"] = [Fault(redirect=address)]
        assert pull("hf:o/n").path.read_bytes() == DATA
        (headers,) = elsewhere.gets("model.pth")
    assert hub.gets("model.pth")[0]["authorization"] == f"Bearer {hub.token}"
    assert "authorization" not in {key.lower() for key in headers}
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrongwrong")
    with pytest.raises(HubError, match=r"refuses access \(401\): the token is not valid here") as error:
        pull("hf:o/n@v1")
    assert "hf_wrong" not in str(error.value)


def test_a_revision(hub: HubServer, repository: Repository) -> None:
    repository.older = {"model.pth": DATA[:1000]}
    for revision in ("v1", OLDER, "refs/pr/1"):
        report = pull(f"{NAME}@{revision}")
        assert (report.commit, report.path.read_bytes()) == (OLDER, DATA[:1000])
        assert report.to_dict()["revision"] == revision
    assert pull(NAME, revision="v1").commit == OLDER
    assert local_path(f"{NAME}@v1").read_bytes() == DATA[:1000]
    assert local_path(NAME).read_bytes() == DATA
    with pytest.raises(rwkv_cy.ConfigError, match="expected one revision, got 'main' too"):
        pull(f"{NAME}@v1", revision="main")


def test_a_branch_that_has_moved(hub: HubServer, repository: Repository) -> None:
    first = pull("hf:o/n")
    repository.files, repository.commit = {"model.pth": DATA[::-1], "other.txt": b"x"}, "b" * 40
    assert local_path(NAME) == first.path  # until the next pull
    second = pull("hf:o/n")
    assert (second.commit, second.path.read_bytes()) == ("b" * 40, DATA[::-1])
    assert local_path(NAME) == second.path
    assert local_path(f"{NAME}@{COMMIT}").read_bytes() == DATA
    repository.commit = "c" * 40
    assert pull("hf:o/n").downloaded == 0


def test_offline_only_the_cache_is_used(
    hub: HubServer, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pull("hf:o/n").path
    before = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert local_path(NAME) == path
    assert local_path("hf:o/n") == path
    assert local_path("hf:o/n/*.pth") == path
    with pytest.raises(HubError, match="hf:o/n/x.pth: it is not in the cache, and HF_HUB_OFFLINE forbids requests"):
        local_path("hf:o/n/x.pth")
    with pytest.raises(HubError, match="hf:o/m: it is not in the cache, and HF_HUB_OFFLINE forbids requests"):
        local_path("hf:o/m")
    assert len(hub.requests) == before


def test_a_hub_that_cannot_be_reached(hub: HubServer, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pull("hf:o/n").path
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert local_path("hf:o/n") == path
    with pytest.raises(HubError, match=r"hf:o/m: no answer from http://127.0.0.1:9 \(.*\); check the network"):
        local_path("hf:o/m")


@pytest.mark.parametrize("answer", [{"error": "no"}, [], {"id": "o/n", "siblings": [3]}, {"id": "o/n", "siblings": []}])
def test_a_server_that_is_not_a_hub(hub: HubServer, repository: Repository, answer: object) -> None:
    hub.edit = lambda _: answer
    with pytest.raises(HubError, match="check HF_ENDPOINT"):
        pull("hf:o/n")


def test_names_that_lead_out_of_the_cache_are_not_written(
    hub: HubServer, repository: Repository, tmp_path: Path
) -> None:
    repository.files = {"../../../escaped.pth": DATA, "/tmp/escaped.pth": DATA, "ok.pth": DATA}
    assert pull("hf:o/n").path.name == "ok.pth"
    with pytest.raises(HubError, match="matches none"):
        pull("hf:o/n", "*escaped*")
    assert not list(tmp_path.rglob("escaped*"))
    repository.files = {"ok2.pth": DATA}
    repository.commit = "../../../../escaped"
    with pytest.raises(HubError, match="expected a commit of 40 hexadecimal digits"):
        pull("hf:o/n")


def test_too_little_disk_space_is_noticed_before_the_download(
    hub: HubServer, repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("rwkv_cy.hub.fetch.free_space", lambda folder: 1_000_000)
    with pytest.raises(StorageError, match=r"not enough disk space: need 3.15 MB, 1.00 MB free in .*blobs"):
        pull("hf:o/n")
    assert hub.gets("model.pth") == []
    with pytest.raises(StorageError, match=rf"not enough disk space: need 3.15 MB, 1.00 MB free in {tmp_path}/x"):
        pull("hf:o/n", into=tmp_path / "x")


def test_a_disk_that_becomes_full(hub: HubServer, repository: Repository, tmp_path: Path) -> None:
    # A limit on the size of files stands for the disk; SIGXFSZ is ignored by Python.
    probe = (
        "import resource, sys, rwkv_cy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n    rwkv_cy.pull('hf:o/n')\nexcept rwkv_cy.StorageError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "hf:o/n/model.pth" in done.stdout
    assert "cannot write it: File too large; check the disk" in done.stdout
    assert pull("hf:o/n").path.read_bytes() == DATA
    assert hub.gets("model.pth")[-1]["Range"] == f"bytes={1 << 20}-"


def test_two_at_once_download_a_file_once(hub: HubServer, repository: Repository) -> None:
    reports: list[int] = []
    threads = [threading.Thread(target=lambda: reports.append(len(pull("hf:o/n").path.read_bytes()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reports == [len(DATA)] * 4
    assert len(hub.gets("model.pth")) == 1


def test_small_files_are_compared_with_the_hash_of_git(hub: HubServer, repository: Repository) -> None:
    report = pull("hf:o/n", "README.md")
    assert report.path.read_bytes() == b"hello"
    assert report.files[0].digest == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"
    repository.files["README.md"] = b"other"
    hub.faults["README.md"] = [Fault(change=lambda data: b"OTHER")]
    with pytest.raises(HubError, match="got "):
        pull("hf:o/n", "README.md")


def test_an_empty_file(hub: HubServer, repository: Repository) -> None:
    repository.files = {"empty.pth": b""}
    assert pull("hf:o/n").path.read_bytes() == b""


def test_a_local_file_of_that_name_comes_first(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:o").mkdir()
    os.link(small, tmp_path / "hf:o" / "n")
    assert local_path("hf:o/n") == Path("hf:o/n")
    assert rwkv_cy.inspect("hf:o/n").num_parameters
    assert hub.requests == []


def test_a_file_system_without_links(hub: HubServer, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    path = pull("hf:o/n").path
    assert not path.is_symlink()
    assert path.read_bytes() == DATA
    assert local_path(NAME) == path


def test_a_tokenizer_is_taken_without_the_weights(hub: HubServer, repository: Repository) -> None:
    vocabulary = json.dumps({"a": 0, "b": 1}).encode()
    repository.files = {"model.safetensors": DATA, "config.json": b"{}", "vocab.json": vocabulary, "s/vocab.json": b"x"}
    for name in ("hf:o/n", "hf:o/n/vocab.json", Path("hf:o/n")):
        assert named_tokenizer(name).vocab_size == 2
    assert hub.gets("model.safetensors") == hub.gets("config.json") == []
    assert len(hub.requests) == 2
    hub.repositories["o/m"] = Repository({"model.safetensors": DATA, "s/vocab.json": b"x"})
    with pytest.raises(HubError, match="expected a tokenizer in the repository's top folder, found none"):
        named_tokenizer("hf:o/m")


def test_a_disk_that_is_full_is_named_with_what_is_missing() -> None:
    class Full(io.RawIOBase):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        StorageError, match=r"hf:o/n/a: not enough disk space: 3.00 MB more needed \(No space left"
    ) as error:
        transfer._write(HubName("o/n", "a"), Full(), b"x", 3_000_000)
    assert "repeat the command: it continues where it ended" in str(error.value)
