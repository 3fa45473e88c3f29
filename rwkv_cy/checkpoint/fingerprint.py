"""Fingerprint of a model: a digest that tells which parameters a state belongs to, without reading all of them."""

from __future__ import annotations

import math

import numpy as np

from rwkv_cy.tensors.reading import read_numbers
from rwkv_cy.tensors.tensor import ParameterSource

__all__ = ["fingerprint"]

#: A tensor of no more elements than this is read whole; of a larger one, so many at its start, middle and end.
_WHOLE = 16384
_SAMPLE = 2048


def fingerprint(source: ParameterSource) -> str:
    """Return a digest of the model's parameters: hexadecimal, 32 digits.

    It covers every name, shape and storage type, the numbers of small tensors, and samples of the large
    ones, so that it takes milliseconds for any model. Training moves all weights, so two checkpoints differ
    in the samples. Files of different formats with the same parameters give the same fingerprint; a model
    file keeps that of the checkpoint it was converted from, whatever precision it was converted to.

    Parameters
    ----------
    source : ParameterSource
        The model.
    """
    try:  # hashlib has the same function, and loads OpenSSL, which takes longer than the digest
        from _blake2 import blake2b
    except ImportError:  # not CPython's private module
        from hashlib import blake2b

    digest = blake2b(digest_size=16, person=b"rwkv-cy-model")
    for name in sorted(source.names()):
        info = source.info(name)
        digest.update(f"{name}\0{info.shape}\0{info.dtype}\0".encode())
        for start, count in _samples(math.prod(info.array_shape)):
            if info.transposed and not info.codec.matrices_only:
                buffer = read_numbers(source, info, start, count)
            else:
                buffer = np.empty(count, dtype=info.codec.array_dtype)
                source.read_into(name, buffer, start)
            digest.update(buffer.tobytes())
    return digest.hexdigest()


def _samples(size: int) -> list[tuple[int, int]]:
    if size <= _WHOLE:
        return [(0, size)]
    return [(start, _SAMPLE) for start in (0, size // 2, size - _SAMPLE)]
