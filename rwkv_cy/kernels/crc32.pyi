"""Types of the compiled module rwkv_cy.kernels.crc32."""

from typing_extensions import Buffer

uses_products: bool

def crc32(data: Buffer, value: int = 0) -> int: ...
