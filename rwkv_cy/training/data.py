"""Training data: documents from text and JSONL, their tokens in a mapped file, and the batches of each step."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import FormatError, StorageError, TokenizerError
from rwkv_cy.files.plain_text import HEAD_BYTES, require_text
from rwkv_cy.files.reading import os_errors
from rwkv_cy.files.replacement import Replacement
from rwkv_cy.records import dataclass
from rwkv_cy.text.tokenizers import Tokenizer

__all__ = ["RECORDS", "Batches", "TokenSet", "check_texts", "documents", "mean_sequence", "open_text", "tokenize"]

Tokens = npt.NDArray[np.int64]

#: Suffixes of files with a document in each line.
RECORDS = (".jsonl", ".ndjson")
#: Bytes of text that are read at once, the most that are encoded at once, and the longest line of a JSONL file.
_PIECE = 1 << 20
_LONGEST_PIECE = 8 << 20
_LONGEST_RECORD = 256 << 20
_NO_DOCUMENT = "expected a document of at least two tokens, got none; give longer documents, or --sampling windows"
#: The end of a line before one that begins with a letter.
_BOUNDARY = re.compile(rb"\n(?=\S)")


@dataclass(frozen=True)
class TokenSet:
    """Documents as token ids.

    Attributes
    ----------
    tokens : numpy.ndarray
        All documents one after the other, each followed by the id that ends a text if the tokenizer has one; uint16 or
        uint32, mapped from a file.
    ends : numpy.ndarray
        End of each document in `tokens`, int64.
    nbytes : int
        Bytes of text.
    digest : str
        SHA-256 of texts and tokenizer.
    """

    tokens: npt.NDArray[Any]
    ends: npt.NDArray[np.int64]
    nbytes: int
    digest: str


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """Open a text for reading; StorageError if it is not a regular file, or the operating system reports an error."""
    if str(path) == "-":
        raise StorageError("-: expected a file, which is read twice, got standard input; name a file")
    with os_errors(path, "read"):
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a directory" if path.is_dir() else "a device or a pipe, which cannot be read twice"
            raise StorageError(f"{path}: expected a text file, got {kind}; name a file")
        with path.open("rb") as file:
            yield file


def check_texts(paths: Sequence[Path]) -> None:
    """Raise an error if a text cannot be read, is empty or not a text: StorageError or FormatError."""
    for path in paths:
        with open_text(path) as file:
            head = file.read(HEAD_BYTES)
            require_text(path, head, "name a text, or JSONL")
            if not head:
                raise FormatError(f"{path}: expected at least two tokens of text, got 0; give more text")


def documents(paths: Sequence[Path]) -> Iterator[Iterator[bytes]]:
    """Yield the documents of files, each as an iterator over its pieces.

    A file whose name ends in ``.jsonl`` or ``.ndjson`` has a document in each line: an object with a string ``text``.
    Any other file is one document.

    Raises
    ------
    FormatError
        If a line is not such an object; the message names its number.
    StorageError
        If a file cannot be read.
    """
    for path in paths:
        if path.suffix.lower() in RECORDS:
            yield from _records(path)
        else:
            yield _pieces(path)


def _records(path: Path) -> Iterator[Iterator[bytes]]:
    with open_text(path) as file:
        number = 0
        while line := file.readline(_LONGEST_RECORD):
            number += 1
            if not line.strip():
                continue
            where = f"{path}: line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FormatError(f'{where}: expected an object like {{"text": "..."}}, got invalid JSON') from error
            text = record.get("text") if isinstance(record, dict) else None
            if not isinstance(text, str):
                raise FormatError(f'{where}: expected an object like {{"text": "..."}}, got {str(record)[:60]!r}')
            yield iter((text.encode("utf-8", "replace"),))


def _pieces(path: Path) -> Iterator[bytes]:
    """Yield a text in pieces that end before a line that begins with a letter, where tokens do not span them.

    A text without such lines is cut between two characters of UTF-8, in pieces of bounded length.
    """
    with open_text(path) as file:
        rest = b""
        while data := file.read(_PIECE):
            searched = max(len(rest) - 1, 0)
            rest += data
            end = max((match.end() for match in _BOUNDARY.finditer(rest, searched)), default=0)
            if not end and len(rest) >= _LONGEST_PIECE:
                end = _before_character(rest)
            if end:
                yield rest[:end]
                rest = rest[end:]
        if rest:
            yield rest


def _before_character(text: bytes) -> int:
    """Return where the last character of a text in UTF-8 begins; the end, if that is not UTF-8."""
    for end in range(len(text) - 1, max(len(text) - 5, 0), -1):
        if text[end] & 0xC0 != 0x80:
            return end
    return len(text)


def tokenize(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    folder: Path,
    progress: Callable[[int], None] | None = None,
) -> TokenSet:
    """Encode documents into two files in a folder, and return them mapped; files of the same texts are used again.

    Parameters
    ----------
    paths : sequence of Path
        As for :func:`documents`.
    tokenizer : Tokenizer
    folder : Path
        An existing folder for ``tokens.bin`` and ``documents.bin``.
    progress : callable, optional
        Called with the bytes of text so far.

    Raises
    ------
    FormatError
        If there are fewer than two tokens, or as :func:`documents`.
    TokenizerError
        If the tokenizer cannot encode a document.
    """
    digest = _digest(paths, tokenizer)
    note = folder / "documents.json"
    tokens, ends = folder / "tokens.bin", folder / "documents.bin"
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    found = _existing(note, digest, {tokens: ("tokens", dtype.itemsize), ends: ("documents", 8)})
    if found is None:
        found = _encode(paths, tokenizer, dtype, tokens, ends, progress)
        with Replacement(note, overwrite=True) as file:
            file.write_at(0, json.dumps({"digest": digest, **found}).encode())
            file.commit()
    if found["tokens"] < 2:
        names = ", ".join(str(path) for path in paths)
        raise FormatError(f"{names}: expected at least two tokens of text, got {found['tokens']}; give more text")
    with os_errors(tokens, "read"):
        return TokenSet(
            np.memmap(tokens, dtype, "r", shape=(found["tokens"],)),
            np.fromfile(ends, np.int64, found["documents"]),
            found["bytes"],
            digest,
        )


def mean_sequence(paths: Sequence[Path], tokenizer: Tokenizer, context: int) -> float:
    """Return how many tokens a sequence of documents learns on average, by the first documents of a mebibyte.

    Parameters
    ----------
    paths : sequence of Path
        As for :func:`documents`.
    tokenizer : Tokenizer
    context : int
        Most tokens of a sequence that are learned.

    Raises
    ------
    FormatError
        If none of these documents has two tokens, or as :func:`documents`.
    """
    learned = sequences = nbytes = 0
    for document in documents(paths):
        tokens = 0 if tokenizer.end_of_text is None else 1
        for piece in document:
            tokens += len(tokenizer.encode_bytes(piece))
            nbytes += len(piece)
            if nbytes >= _PIECE:
                break
        if tokens > 1:
            learned += tokens - 1
            sequences += -(-(tokens - 1) // context)
        if nbytes >= _PIECE:
            break
    if not sequences:
        raise FormatError(f"{', '.join(map(str, paths))}: {_NO_DOCUMENT}")
    return learned / sequences


def _digest(paths: Sequence[Path], tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(tokenizer.kind.encode() + b"\0" + tokenizer.to_bytes())
    for path in paths:
        digest.update(path.suffix.encode() + b"\0")
        with open_text(path) as file:
            while data := file.read(_PIECE):
                digest.update(data)
    return digest.hexdigest()


def _existing(note: Path, digest: str, files: Mapping[Path, tuple[str, int]]) -> dict[str, int] | None:
    """Return what the note says of the same texts, if its files are as long as it says."""
    try:
        found: dict[str, Any] = json.loads(note.read_bytes())
        complete = all(path.stat().st_size == found[key] * size for path, (key, size) in files.items())
        return found if complete and found["digest"] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _encode(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    dtype: np.dtype[Any],
    tokens: Path,
    ends: Path,
    progress: Callable[[int], None] | None,
) -> dict[str, int]:
    position, nbytes = 0, 0
    found = array("q")
    with Replacement(tokens, overwrite=True) as file:

        def write(ids: Sequence[int]) -> None:
            nonlocal position
            block = np.asarray(ids, dtype)
            file.write_at(position * block.itemsize, block.tobytes())
            position += block.size

        for document in documents(paths):
            before = position
            for piece in document:
                ids = tokenizer.encode_bytes(piece)
                nbytes += len(piece)
                if ids:
                    write(ids)
                if progress is not None:
                    progress(nbytes)
            if position > before and tokenizer.end_of_text is not None:
                write([tokenizer.end_of_text])
            if position > before:
                found.append(position)
        file.commit()
    with Replacement(ends, overwrite=True) as file:
        file.write_at(0, found.tobytes())
        file.commit()
    return {"tokens": position, "documents": len(found), "bytes": nbytes}


class Batches:
    """The sequences of each step, which follow from the seed alone: a run may stop and go on anywhere.

    Parameters
    ----------
    data : TokenSet
    sampling : {"windows", "documents"}
    context : int
        Most tokens of a sequence whose next token is learned.
    batch_size : int
    seed : int
    vocab_size : int
        Of the model.

    Raises
    ------
    FormatError
        If there are too few tokens for a window, or none of the documents has two.
    TokenizerError
        If an id is beyond the model's vocabulary.
    """

    def __init__(
        self, data: TokenSet, *, sampling: str, context: int, batch_size: int, seed: int, vocab_size: int
    ) -> None:
        highest = int(data.tokens.max())
        if highest >= vocab_size:
            raise TokenizerError(
                f"training text: expected token ids below {vocab_size}, the vocabulary of the model, got {highest}; "
                "choose the model's own tokenizer"
            )
        self._tokens = data.tokens
        self._context, self._batch_size, self._seed = context, batch_size, seed
        self._ranges = _document_ranges(data, context) if sampling == "documents" else None
        self._epoch, self._order = -1, np.empty(0, np.int64)
        size = data.tokens.size
        if self._ranges is None and size <= context:
            raise FormatError(
                f"training text: expected at least {context + 1} tokens, the context and one, got {size}; give more "
                f"text or --context {size - 1}"
            )
        if self._ranges is not None and not len(self._ranges):
            raise FormatError(
                f"training text: expected a document of at least two tokens, got {len(data.ends)} of one; give longer "
                "documents, or --sampling windows"
            )
        #: Sequences of an epoch.
        self.count = (size - 1) // context if self._ranges is None else len(self._ranges)

    def batch(self, step: int) -> list[Tokens]:
        """Return the sequences of a step; each holds the tokens that are read and, one further on, those learned."""
        first = step * self._batch_size
        return [self._sequence(*divmod(first + i, self.count)) for i in range(self._batch_size)]

    def _sequence(self, epoch: int, place: int) -> Tokens:
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._order = rng.permutation(self.count)
            if self._ranges is None:
                # The windows of each epoch begin elsewhere.
                spare = self._tokens.size - 1 - self.count * self._context
                self._order = self._order * self._context + rng.integers(spare + 1)
            self._epoch = epoch
        item = int(self._order[place])
        begin, end = (item, item + self._context + 1) if self._ranges is None else self._ranges[item]
        return self._tokens[begin:end].astype(np.int64)


def _document_ranges(data: TokenSet, context: int) -> npt.NDArray[np.int64]:
    """Return begin and end of each piece of a document."""
    begins = np.concatenate([[0], data.ends[:-1]])
    counts = np.maximum(0, -((begins + 1 - data.ends) // context))
    places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(begins, counts) + places * context
    return np.stack([starts, np.minimum(starts + context + 1, np.repeat(data.ends, counts))], axis=1)
