"""The first bytes of files whose formats have a magic number."""

from __future__ import annotations

__all__ = ["GGUF_MAGIC", "LEGACY_MAGIC", "RWKVCPP_MAGIC"]

GGUF_MAGIC = b"GGUF"
RWKVCPP_MAGIC = b"fmgg"  # 0x67676d66, "ggmf", in little-endian order
#: Of torch before 1.6: a pickle of protocol 2 that pushes a number.
LEGACY_MAGIC = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
