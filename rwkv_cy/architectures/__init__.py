"""The versions of RWKV, one file each, and their registry.

Kernels are imported where a mix is made: describing a file loads none of them.
"""

from rwkv_cy.architectures.base import Architecture, ParameterSpec, StateField
from rwkv_cy.architectures.registry import (
    ARCHITECTURES,
    architecture_of,
    check_parameters,
    detect,
    register,
    version_label,
)
from rwkv_cy.architectures.trained_on import another_version, trained_on

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "ParameterSpec",
    "StateField",
    "another_version",
    "architecture_of",
    "check_parameters",
    "detect",
    "register",
    "trained_on",
    "version_label",
]
