"""A corpus: batches give the perplexity of the command, as ``make test-corpus`` shows with a longer text."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch import wikitext


def test_the_perplexity_of_batches_is_that_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wikitext.main(["--bytes", "5000"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("rwkv-cy perplexity: ")
    assert len(others) == 3
    monkeypatch.setattr(wikitext, "LIMIT", -1)
    assert wikitext.main(["--bytes", "2000", "--window", "64"]) == 1


def test_the_text_is_like_wikitext() -> None:
    text = wikitext.wikitext(50_000)
    assert (len(text), len(text.encode())) == (50_000, 50_000)
    assert text == wikitext.wikitext(60_000)[:50_000]
    assert text != wikitext.wikitext(50_000, seed=1)
    assert "\n = " in text
    assert " <unk> " in text
