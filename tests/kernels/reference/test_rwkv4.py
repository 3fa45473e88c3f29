"""The reference implementation of RWKV-4 against the authors' package, with kjv.pth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contracts.cases import reference_forward
from rwkv_cy.model.language_model import LanguageModel

GOLDEN = Path(__file__).resolve().parents[3] / "data" / "golden" / "kjv-logits.npy"


def test_logits_of_the_authors_package(kjv: LanguageModel, heldout: bytes) -> None:
    golden = np.load(GOLDEN)
    logits, _ = reference_forward(kjv, list(heldout[: len(golden)]))
    assert np.abs(logits - golden).max() <= 1e-4
