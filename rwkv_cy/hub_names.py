"""Names of models on the Hugging Face hub: ``hf:owner/name/file@revision``, and the URLs that mean the same."""

from __future__ import annotations

import os
import re

from rwkv_cy.errors import HubError
from rwkv_cy.records import dataclass

__all__ = ["MAIN", "HubName", "complete_url", "is_hub_name", "is_plain_path", "is_repository", "name_in_url"]

#: The revision of a name without one.
MAIN = "main"
_PREFIX = "hf:"
# Patterns: `re` compiles a text when it is first used. Most runs use none of these.
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[\w-])?"
_REPOSITORY = rf"(?a:(?!.*(?:--|\.\.)){_PART}/{_PART})"
_REVISION = r"(?a:(?!.*(?:\.\.|//))[A-Za-z0-9][\w./-]{0,199}(?<![./]))"
#: Other kinds of repositories, whose URLs and names begin with the kind.
_OTHER_KINDS = ("datasets", "spaces", "buckets", "kernels")
_URL = r"(?i:[a-z][a-z0-9+.-]+:/)"
_HUB_URL = (
    rf"(?ai:(?:https?:/{{1,2}})?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/(?P<repository>{_PART}/{_PART})"
    r"(?:/(?:resolve|blob|raw|tree|blame)/(?P<revision>[^/?#]+)(?:/(?P<file>[^?#]+))?)?/?(?:[?#].*)?)"
)
_EXPECTED = "expected hf:owner/name, hf:owner/name/file or hf:owner/name/file@revision"
_LONGEST_PART, _LONGEST = 255, 1024


@dataclass(frozen=True)
class HubName:
    """The name of a repository on the hub, or of a file or folder in it.

    Attributes
    ----------
    repository : str
        ``"owner/name"``.
    file : str, default ""
        Path of a file or folder in the repository, or a pattern for one; empty for the repository itself.
    revision : str, default "main"
        A branch, tag or commit.
    """

    repository: str
    file: str = ""
    revision: str = MAIN

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Return the name that `text` means; ``hf://owner/name@revision/file`` is accepted too.

        Raises
        ------
        HubError
            If it is not a name of this form.
        """
        parts = text.removeprefix(_PREFIX).strip("/").split("/")
        if parts[0] in _OTHER_KINDS:
            raise HubError(f"{text}: expected a model, got one of the hub's {parts[0]}; name a model's repository")
        name, at, revision = parts[1].partition("@") if len(parts) > 1 else ("", "", "")
        rest = parts[2:]
        if at and revision == "refs" and len(rest) > 1:
            revision, rest = "/".join(("refs", *rest[:2])), rest[2:]
        file = "/".join(rest)
        if not at:
            file, at, revision = file.rpartition("@") if "@" in file else (file, "", MAIN)
        repository = f"{parts[0]}/{name}"
        if re.fullmatch(_REPOSITORY, repository) is None:
            raise HubError(f"{text}: {_EXPECTED}, as hf:BlinkDL/rwkv7-g1, got another text; check the name")
        if re.fullmatch(_REVISION, revision) is None:
            raise HubError(f"{text}: expected a branch, tag or commit after @, got {revision!r}; check the name")
        if file and not is_plain_path(file):
            raise HubError(f"{text}: expected the path of a file in the repository, got {file!r}; check the name")
        return cls(repository, file, revision)

    def __str__(self) -> str:
        """Return the name as users type it."""
        file = f"/{self.file}" if self.file else ""
        revision = f"@{self.revision}" if self.revision != MAIN or "@" in file else ""
        return f"{_PREFIX}{self.repository}{file}{revision}"


def is_hub_name(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is meant as a name on the hub: it begins with ``hf:``."""
    text = os.fspath(path)
    return isinstance(text, str) and text.startswith(_PREFIX)  # bytes are refused where the path is used


def is_repository(text: str) -> bool:
    """Tell whether `text` could be the name of a repository: ``owner/name``."""
    return re.fullmatch(_REPOSITORY, text) is not None


def is_plain_path(path: str) -> bool:
    """Tell whether `path` is a relative path with ``/`` that stays below the folder that it is joined to."""
    return (
        0 < len(path) <= _LONGEST
        and path.isprintable()
        and "\\" not in path
        and all(
            part not in ("", ".", "..") and len(part.encode("utf-8", "replace")) <= _LONGEST_PART
            for part in path.split("/")
        )
    )


def complete_url(text: str) -> str | None:
    """Return a URL whose slashes pathlib may have merged (``https:/...``) as it was; None for other texts."""
    match = re.match(_URL, text)
    return None if match is None else f"{match[0]}/{text[match.end() :].lstrip('/')}"


def name_in_url(text: str) -> HubName | None:
    """Return what the URL of a page or file of the hub, or of a mirror, names; None for other texts."""
    match = re.fullmatch(_HUB_URL, text)
    if match is None or match["repository"].split("/")[0] in (*_OTHER_KINDS, "api", "docs", "models", "papers"):
        return None
    from urllib.parse import unquote  # takes a millisecond to load, and few paths are URLs

    revision, file = unquote(match["revision"] or MAIN), unquote(match["file"] or "").strip("/")
    fits = re.fullmatch(_REPOSITORY, match["repository"]) and re.fullmatch(_REVISION, revision)
    return HubName(match["repository"], file, revision) if fits and (not file or is_plain_path(file)) else None
