"""Make data/golden from the RWKV authors' own package: logits and perplexity of both demo models, in float32 on torch.

    pip install torch==2.13.0 rwkv
    python tools/make_golden.py kjv
    python tools/make_golden.py kjv7

The package normalizes the embedding in the checkpoint's type, so that it gets a checkpoint widened to float32.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TEXT = ROOT / "data" / "kjv-heldout.txt"
GOLDEN = ROOT / "data" / "golden"
#: Tokens whose logits are stored, and tokens per call of the package.
LOGIT_TOKENS = 500
CHUNK = 1024


def open_oracle(name: str, folder: str):
    """Return the package's model of a demo checkpoint."""
    os.environ["RWKV_JIT_ON"] = "0"
    os.environ["RWKV_CUDA_ON"] = "0"
    os.environ["RWKV_V7_ON"] = str(int(name == "kjv7"))
    import torch

    weights = torch.load(ROOT / "data" / f"{name}.pth", map_location="cpu", weights_only=True)
    wide = Path(folder) / f"{name}-f32.pth"
    torch.save({name: tensor.float() for name, tensor in weights.items()}, wide)
    from rwkv.model import RWKV

    return RWKV(model=str(wide.with_suffix("")), strategy="cpu fp32")


def main(name: str) -> None:
    """Write the golden files of a model."""
    tokens = list(TEXT.read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        model = open_oracle(name, folder)
        state, total = None, 0.0
        first_logits: list[np.ndarray] = []
        for start in range(0, len(tokens), CHUNK):
            chunk = tokens[start : start + CHUNK]
            logits, state = model.forward(chunk, state, full_output=True)
            logits = logits.numpy().astype(np.float64)
            if start < LOGIT_TOKENS:
                first_logits.append(logits[: LOGIT_TOKENS - start])
            after = tokens[start + 1 : start + 1 + CHUNK]
            rows = logits[: len(after)]
            largest = rows.max(axis=1)
            log_sum = largest + np.log(np.exp(rows - largest[:, None]).sum(axis=1))
            total += float((log_sum - rows[np.arange(len(after)), after]).sum())
    GOLDEN.mkdir(exist_ok=True)
    np.save(GOLDEN / f"{name}-logits.npy", np.concatenate(first_logits).astype(np.float32))
    report = {"tokens": len(tokens), "perplexity": float(np.exp(total / (len(tokens) - 1)))}
    (GOLDEN / f"{name}-perplexity.json").write_text(json.dumps(report, indent=2) + "\n")
    print(report)


if __name__ == "__main__":
    main(sys.argv[1])
