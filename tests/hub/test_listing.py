from __future__ import annotations

import pytest

from rwkv_cy.errors import HubError
from rwkv_cy.hub.listing import Listing, RemoteFile, choose, choose_all, models_of
from rwkv_cy.hub_names import HubName

DIGEST = "ab" * 32
NAME = HubName("o/n")


def files(*names: str) -> tuple[RemoteFile, ...]:
    return tuple(RemoteFile(name, 1000 + place, f"{place:064x}") for place, name in enumerate(names))


def found(*names: str) -> dict[str, set[str]]:
    return {model.label: {file.name for file in model.files} for model in models_of(files(*names))}


def test_each_file_of_weights_is_a_model_with_the_tokenizers_beside_it() -> None:
    assert found("README.md", "a.pth", "b.safetensors", "sub/c.gguf", "rwkv_vocab_v20230424.txt") == {
        "a.pth": {"a.pth", "rwkv_vocab_v20230424.txt"},
        "b.safetensors": {"b.safetensors", "rwkv_vocab_v20230424.txt"},
        "sub/c.gguf": {"sub/c.gguf"},
    }


def test_a_folder_has_the_weights_that_its_reader_takes() -> None:
    assert found(
        "config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "code.py", "generation_config.json"
    ) == {
        "./": {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"},
        "pytorch_model.bin": {"pytorch_model.bin", "tokenizer.json"},
    }


def test_a_folder_of_shards() -> None:
    shards = ["s/model-00001-of-00002.safetensors", "s/model-00002-of-00002.safetensors"]
    names = ["s/config.json", "s/model.safetensors.index.json", *shards]
    assert found(*names, "x.pth") == {"s/": set(names), "x.pth": {"x.pth"}}
    model = choose(HubName("o/n", "s"), files(*names, "x.pth"))
    assert (model.name, model.is_folder, model.files[0].name) == ("s", True, names[1])
    index = choose(HubName("o/n", names[1]), files(*names))
    assert (index.name, index.is_folder, {file.name for file in index.files}) == (names[1], False, set(names))
    shard = choose(HubName("o/n", shards[0]), files(*names))
    assert [file.name for file in shard.files] == [shards[0]]


def test_parts_of_a_gguf_file_belong_together() -> None:
    parts = {f"m-0000{part}-of-00003.gguf" for part in (1, 2, 3)}
    assert found(*sorted(parts, reverse=True), "other.gguf") == {
        "m-00001-of-00003.gguf": parts,
        "other.gguf": {"other.gguf"},
    }


@pytest.mark.parametrize(
    ("file", "patterns", "label"),
    [
        ("g1-0.1b.pth", (), "g1-0.1b.pth"),
        ("", ("*0.1b*",), "g1-0.1b.pth"),
        ("", ("*0.1B*",), "g1-0.1b.pth"),
        ("*0.1b*", (), "g1-0.1b.pth"),
        ("", ("README.md",), "README.md"),
        ("", ("*.MD",), "README.md"),
        ("vocab.txt", (), "vocab.txt"),
    ],
)
def test_one_model_is_chosen(file: str, patterns: tuple[str, ...], label: str) -> None:
    listed = files("README.md", "g1-0.1b.pth", "g1-0.4b.pth", "vocab.txt")
    assert choose(HubName("o/n", file), listed, patterns).label == label


def test_the_model_in_the_top_folder_is_preferred() -> None:
    listed = files("config.json", "model.safetensors", "extra.pth")
    assert choose(NAME, listed).label == "./"
    with pytest.raises(HubError, match="expected one model, '\\*' matches 2: ./ "):
        choose(NAME, listed, ("*",))


def test_several_models_are_listed_with_sizes() -> None:
    listed = files(*(f"m{number}.pth" for number in range(9)))
    with pytest.raises(
        HubError, match=r"expected one model, found 9: m0.pth \(1.00 kB\), .* and 6 more; name one"
    ) as error:
        choose(NAME, listed)
    assert error.value.files == tuple((f"m{number}.pth", 1000 + number) for number in range(9))
    assert len(choose_all(NAME, listed, ("m[12]*", "m8.pth"))) == 3


def test_no_model_is_an_error_with_what_there_is() -> None:
    with pytest.raises(HubError, match=r"'\*7b\*' matches none; the repository has a-3b.pth \(1.00 kB\)"):
        choose(NAME, files("a-3b.pth"), ("*7b*",))
    with pytest.raises(HubError, match="'a-3b.pt' matches none; did you mean hf:o/n/a-3b.pth"):
        choose(HubName("o/n", "a-3b.pt"), files("a-3b.pth"))
    with pytest.raises(HubError, match="found none; the repository has README.md"):
        choose(NAME, files("README.md"))
    with pytest.raises(HubError, match="found none; the repository has no files"):
        choose(NAME, ())


@pytest.mark.parametrize("name", ["../x.pth", "/x.pth", "a/../../x.pth", "a\\x.pth", "x\x1b.pth", "", None, 3])
def test_names_that_lead_elsewhere_are_left_out(name: object) -> None:
    listing = Listing.checked("o/n", "a" * 40, [RemoteFile(name, 3, DIGEST), *files("a.pth")])  # type: ignore[arg-type]
    assert ([file.name for file in listing.files], listing.unsafe) == (["a.pth"], 1)


@pytest.mark.parametrize(
    ("commit", "size", "digest", "message"),
    [
        ("main", 3, DIGEST, "expected a commit"),
        (None, 3, DIGEST, "expected a commit"),
        ("a" * 40, -1, DIGEST, "expected its size, got '-1'"),
        ("a" * 40, None, DIGEST, "expected its size, got 'None'"),
        ("a" * 40, True, DIGEST, "expected its size, got 'True'"),
        ("a" * 40, 1 << 60, DIGEST, "expected its size"),
        ("a" * 40, 3, "../../x", "expected its hash, got '../../x'"),
        ("a" * 40, 3, DIGEST.upper(), "expected its hash"),
        ("a" * 40, 3, None, "expected its hash, got 'None'"),
    ],
)
def test_answers_of_a_hostile_server(commit: object, size: object, digest: object, message: str) -> None:
    with pytest.raises(HubError, match=message):
        Listing.checked("o/n", commit, [RemoteFile("a.pth", size, digest)])  # type: ignore[arg-type]


def test_too_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_cy.hub.listing._MAX_FILES", 2)
    with pytest.raises(HubError, match="expected at most 2 files, got 3"):
        Listing.checked("o/n", "a" * 40, files("a", "b", "c"))
