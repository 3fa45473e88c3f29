from __future__ import annotations

import io
import json
import math
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from cli.conftest import Run
from rwkv_cy.model.language_model import LanguageModel

TEXT = "In the beginning God"


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_a_table(run: Run, kjv_checkpoint: Path, kjv: LanguageModel) -> None:
    result = run("logprobs", kjv_checkpoint, TEXT, "--top", 2)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].split() == ["position", "id", "log", "p", "p", "rank", "piece", "likeliest"]
    rows = lines[2 : 2 + len(TEXT)]
    assert rows[0].split() == ["0", "73", '"I"']
    expected = kjv.logprobs(TEXT, top=2)
    position, token, logprob, probability, rank, piece, first, p, second, _ = shlex.split(rows[1])
    assert (position, token, piece) == ("1", "110", "n")
    assert float(logprob) == pytest.approx(expected.logprobs[1], abs=1e-3)
    assert float(probability) == pytest.approx(math.exp(expected.logprobs[1]), abs=1e-4)
    assert int(rank) == expected.ranks[1]
    assert (ord(first), ord(second)) == tuple(expected.top_tokens[1])
    assert float(p.rstrip(",")) == pytest.approx(math.exp(expected.top_logprobs[1, 0]), abs=1e-4)
    assert lines[-4:] == [
        "tokens predicted  19 of 20",
        f"log-probability   {expected.total:.6g}",
        f"perplexity        {expected.perplexity:.6g}",
        f"bits per byte     {-expected.total / math.log(2) / 19:.6g}",
    ]


def test_totals_alone(run: Run, kjv_checkpoint: Path) -> None:
    whole = run("logprobs", kjv_checkpoint, TEXT).out
    totals = run("logprobs", kjv_checkpoint, TEXT, "--no-tokens").out
    assert totals == whole[whole.index("tokens predicted") :]
    perplexity = json.loads(run("logprobs", kjv_checkpoint, TEXT, "--no-tokens", "--json").out)["perplexity"]
    assert f"perplexity        {perplexity:.6g}\n" in totals
    without = run("logprobs", kjv_checkpoint, TEXT, "--top", 0).out
    assert "likeliest" not in without
    assert without.endswith(totals)


def test_json(run: Run, kjv_checkpoint: Path, kjv: LanguageModel) -> None:
    report = json.loads(run("logprobs", kjv_checkpoint, "Iné", "--json", "--top", 1).out)
    assert list(report) == [
        "schema",
        "model",
        "context",
        "tokens",
        "count",
        "predicted",
        "logprob",
        "perplexity",
        "bits_per_byte",
    ]
    expected = kjv.logprobs("Iné", top=1)
    assert report["tokens"][0] == {"id": 73, "text": "I", "bytes": "49", "logprob": None, "rank": None, "top": []}
    last = report["tokens"][3]
    assert (last["id"], last["text"], last["bytes"]) == (0xA9, "\ufffd", "a9")
    assert last["logprob"] == expected.logprobs[3]
    assert last["rank"] == expected.ranks[3]
    assert [(top["id"], top["logprob"]) for top in last["top"]] == [
        (expected.top_tokens[3, 0], expected.top_logprobs[3, 0])
    ]
    assert (report["count"], report["predicted"], report["context"]) == (4, 3, None)
    assert report["logprob"] == pytest.approx(expected.total)


def test_a_context_predicts_the_first_token(run: Run, kjv_checkpoint: Path, kjv: LanguageModel) -> None:
    report = json.loads(run("logprobs", kjv_checkpoint, " God", "--context", "In the beginning", "--json").out)
    whole = kjv.logprobs(TEXT)
    assert (report["count"], report["predicted"], report["context"]) == (4, 4, "In the beginning")
    assert report["logprob"] == pytest.approx(whole.logprobs[-4:].sum(), rel=1e-9)


def test_one_token_alone(run: Run, kjv_checkpoint: Path) -> None:
    result = run("logprobs", kjv_checkpoint, "a", "--no-tokens")
    assert result.out == (
        "tokens predicted  0 of 1\nlog-probability   0\nperplexity        unknown\nbits per byte     unknown\n"
    )
    assert json.loads(run("logprobs", kjv_checkpoint, "a", "--json").out)["perplexity"] is None


def test_the_text_of_a_file_or_standard_input(
    run: Run, kjv_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run("logprobs", kjv_checkpoint, TEXT)
    (tmp_path / "t").write_text(TEXT)
    assert run("logprobs", kjv_checkpoint, "-f", tmp_path / "t") == expected
    monkeypatch.setattr(sys, "stdin", Stdin(TEXT.encode()))
    assert run("logprobs", kjv_checkpoint, "-") == expected


def test_the_perplexity_is_that_of_perplexity(run: Run, kjv_checkpoint: Path, heldout: bytes, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(heldout[:700])
    ours = json.loads(run("logprobs", kjv_checkpoint, "-f", tmp_path / "t", "--json").out)
    other = json.loads(run("perplexity", kjv_checkpoint, tmp_path / "t", "--json").out)
    for name in ("perplexity", "bits_per_byte"):
        assert ours[name] == pytest.approx(other[name], rel=1e-12)
    assert np.isclose(ours["logprob"], -other["nats"])


def test_what_is_refused(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    result = run("logprobs", kjv_checkpoint, "")
    assert (result.code, result.out) == (1, "")
    assert "text: expected at least one token, got an empty text" in result.err
    result = run("logprobs", kjv_checkpoint)
    assert (result.code, "TEXT is missing" in result.err) == (2, True)
    result = run("logprobs", kjv_checkpoint, "-f", tmp_path / "none.txt")
    assert (result.code, "none.txt: cannot read it: No such file" in result.err) == (3, True)
    assert run("logprobs", kjv_checkpoint, "a", "--top", 101).code == 2


def test_json_has_no_lone_surrogate(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "\udcff.pth"
    path.symlink_to(kjv_checkpoint)
    result = run("logprobs", path, "abc", "--json")
    assert json.loads(result.out)["model"] == f"{tmp_path}/\\udcff.pth"
