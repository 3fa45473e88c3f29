"""Types of the compiled module rwkv_cy.files.mapped."""

from typing import Final

class MappedFile:
    guarded: Final[bool]
    damaged: Final[bool]
    def __init__(self, descriptor: int, size: int, offset: int = 0) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
