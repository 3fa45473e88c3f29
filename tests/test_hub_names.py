from __future__ import annotations

from pathlib import Path

import pytest

from rwkv_cy.errors import HubError
from rwkv_cy.hub_names import HubName, complete_url, is_hub_name, is_plain_path, name_in_url


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:BlinkDL/rwkv7-g1", HubName("BlinkDL/rwkv7-g1")),
        ("hf://BlinkDL/rwkv7-g1/", HubName("BlinkDL/rwkv7-g1")),
        ("hf:/BlinkDL/rwkv7-g1", HubName("BlinkDL/rwkv7-g1")),
        ("hf:o/n/a.pth", HubName("o/n", "a.pth")),
        ("hf:o/n/sub/a b.pth", HubName("o/n", "sub/a b.pth")),
        ("hf:o/n@v1", HubName("o/n", "", "v1")),
        ("hf:o/n/a.pth@v1.0", HubName("o/n", "a.pth", "v1.0")),
        ("hf:o/n@v1/sub/a.pth", HubName("o/n", "sub/a.pth", "v1")),
        ("hf:o/n/a@b.pth@main", HubName("o/n", "a@b.pth")),
        ("hf:o/n@refs/pr/1", HubName("o/n", "", "refs/pr/1")),
        ("hf:o/n@refs/pr/1/a.pth", HubName("o/n", "a.pth", "refs/pr/1")),
        ("hf:o/n/a.pth@refs/pr/1", HubName("o/n", "a.pth", "refs/pr/1")),
        ("hf:o/n/RWKV-Eng98%-Other2%.pth", HubName("o/n", "RWKV-Eng98%-Other2%.pth")),
    ],
)
def test_names(text: str, name: HubName) -> None:
    assert HubName.parse(text) == name
    assert HubName.parse(str(name)) == name
    assert is_hub_name(Path(text))
    assert HubName.parse(str(Path(text))) == name
    assert not is_hub_name(text.encode())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:rwkv7-g1",
        "hf:o/",
        "hf:../n",
        "hf:o/..",
        "hf:o/n--m",
        "hf:o/n/../../x",
        "hf:o/n/./x",
        "hf:o/n//x",
        "hf:o/n/a\\b",
        "hf:o/n/a\nb",
        "hf:o/n@",
        "hf:o/n@../../x",
        "hf:o/n@/x",
        "hf:o/n/x@a..b",
        "hf:o/n/x@-f",
        "hf:o/" + "n" * 97,
        "hf:o/n/" + "x" * 256,
        "hf:o/n/" + "x/" * 1000 + "x",
        "hf:ö/n",
        "hf:datasets/o/n",
    ],
)
def test_texts_that_are_not_names(text: str) -> None:
    with pytest.raises(HubError, match="expected (hf:owner/name|a branch, tag|the path of a file|a model)"):
        HubName.parse(text)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://huggingface.co/o/n", "hf:o/n"),
        ("https://huggingface.co/o/n/", "hf:o/n"),
        ("huggingface.co/o/n", "hf:o/n"),
        ("http://www.huggingface.co/o/n/tree/main", "hf:o/n"),
        ("https://hf.co/o/n/tree/v1/sub", "hf:o/n/sub@v1"),
        ("https://huggingface.co/o/n/resolve/main/a.pth", "hf:o/n/a.pth"),
        ("https://huggingface.co/o/n/resolve/main/a.pth?download=true", "hf:o/n/a.pth"),
        ("https://hf-mirror.com/o/n/blob/main/s/Eng98%25.pth#x", "hf:o/n/s/Eng98%.pth"),
        ("https://huggingface.co/o/n/resolve/refs%2Fpr%2F1/a.pth", "hf:o/n/a.pth@refs/pr/1"),
    ],
)
def test_urls(url: str, name: str) -> None:
    assert str(name_in_url(url)) == name
    if "://" in url:
        assert complete_url(str(Path(url))) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/datasets/o/n",
        "https://huggingface.co/api/models/o/n",
        "https://huggingface.co/o",
        "https://huggingface.co/o/n/resolve/main/../../x",
        "https://huggingface.co/o/n/resolve/main/%2e%2e/x",
        "https://huggingface.co/o/n/resolve/%2e%2e/x",
        "https://huggingface.co.example.org/o/n",
        "https://example.org/huggingface.co/o/n",
        "o/n",
    ],
)
def test_urls_of_something_else(url: str) -> None:
    assert name_in_url(url) is None


@pytest.mark.parametrize("text", ["o/n", "c:/x", "hf", "", "/https:/x", "model.h5"])
def test_paths_are_not_urls(text: str) -> None:
    assert complete_url(text) is None


@pytest.mark.parametrize(
    "path", ["", "/x", "x/", "a//b", "..", "a/../b", "a\\b", "a\x00b", "a\x1bb", "\udc80", "x" * 256]
)
def test_paths_that_lead_elsewhere(path: str) -> None:
    assert not is_plain_path(path)
