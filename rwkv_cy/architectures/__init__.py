"""The versions of RWKV, one file each, and the table of them."""

from rwkv_cy.architectures.base import Architecture
from rwkv_cy.architectures.registry import ARCHITECTURES, check_parameters, detect, version_label

__all__ = ["ARCHITECTURES", "Architecture", "check_parameters", "detect", "version_label"]
