from __future__ import annotations

import zlib

from rwkv_cy.files.blocks import Summed, bytes_of


def test_a_checksum_is_computed_when_blocks_are_written() -> None:
    seen: list[int] = []
    summed = Summed([b"one", memoryview(b"two")], seen.append)
    blocks = list(summed)
    assert summed.crc32 == 0
    assert b"".join(map(bytes_of, blocks)) == b"onetwo"
    assert summed.crc32 == zlib.crc32(b"onetwo")
    assert seen == [summed.crc32]


def test_blocks_without_anybody_to_tell() -> None:
    summed = Summed([b"one"])
    assert [bytes_of(block) for block in summed] == [b"one"]
    assert summed.crc32 == zlib.crc32(b"one")


def test_plain_bytes_are_what_they_are() -> None:
    assert bytes_of(b"x") == b"x"
