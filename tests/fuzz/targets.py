"""All fuzz targets by name."""

from __future__ import annotations

from fuzz import (
    fuzz_gguf,
    fuzz_huggingface,
    fuzz_pth,
    fuzz_rwkvcpp,
    fuzz_safetensors,
    fuzz_storage,
    fuzz_text,
    fuzz_toolkit,
    fuzz_vocabulary,
)

_MODULES = (
    *(fuzz_pth, fuzz_safetensors, fuzz_gguf, fuzz_rwkvcpp, fuzz_huggingface),
    *(fuzz_storage, fuzz_vocabulary, fuzz_toolkit, fuzz_text),
)
TARGETS = {target.name: target for module in _MODULES for target in module.TARGETS}
