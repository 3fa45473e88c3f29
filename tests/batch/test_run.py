"""Batches: answers as one by one, whole blocks or none, bad records, and folders of other batches."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from batch.helpers import contents, lines, records, write_jsonl
from rwkv_cy.batch import EmbedTask, GenerateTask, LocalProcesses, Part, Progress, ScoreTask, run_batch
from rwkv_cy.batch.folder import Folder
from rwkv_cy.errors import ConfigError, FormatError, GenerationError, StorageError
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.text import ByteTokenizer
from rwkv_cy.text.tokenizers.world import WorldTokenizer
from rwkv_cy.toolkit.perplexity import perplexity

TASKS = [GenerateTask(max_tokens=6), ScoreTask(), ScoreTask(window=5), EmbedTask(normalize=True)]


def test_generated_texts_are_those_of_one_by_one(kjv: LanguageModel, tmp_path: Path) -> None:
    rows = [{**row, "seed": place} for place, row in enumerate(records())]
    rows[3] |= {"temperature": 0, "max_tokens": 9}
    rows[4] |= {"top_k": 3, "stop": "e", "presence_penalty": 0.5}
    source = write_jsonl(tmp_path / "prompts.jsonl", rows)
    report = run_batch(kjv, source, tmp_path / "out", GenerateTask(max_tokens=6), block_rows=5)
    answers = lines(tmp_path / "out")
    assert [answer["id"] for answer in answers] == [row["id"] for row in rows]
    for row, answer in zip(rows, answers, strict=True):
        options = {name: row[name] for name in ("temperature", "top_k", "presence_penalty") if name in row}
        alone = kjv.generate(
            row["prompt"], max_tokens=row.get("max_tokens", 6), seed=row["seed"], stop=row.get("stop", ()), **options
        )
        assert "".join(alone) == answer["text"]
        assert answer["completion_tokens"] == len(alone.tokens)
    assert report.complete
    assert (report.totals.answers, report.run_records, report.total_blocks) == (14, 14, 3)
    assert report.totals.generated_tokens == sum(answer["completion_tokens"] for answer in answers)


@pytest.mark.parametrize("window", [None, 7])
def test_scores_are_those_of_one_by_one(kjv: LanguageModel, tmp_path: Path, window: int | None) -> None:
    rows = [
        *records("text"),
        {"id": "long", "text": "And God said, Let there be light. " * 20},
        {"id": "1", "text": [5]},
    ]
    source = write_jsonl(tmp_path / "texts.jsonl", rows)
    run_batch(kjv, source, tmp_path / "out", ScoreTask(window), block_rows=9)
    for row, answer in zip(rows, lines(tmp_path / "out"), strict=True):
        text = row["text"].encode() if isinstance(row["text"], str) else bytes(row["text"])
        step = window or len(text)
        expected = np.concatenate([kjv.score(list(text[at : at + step])) for at in range(0, len(text), step)])
        assert [None if math.isnan(value) else value for value in expected.tolist()] == answer["logprobs"]
        assert answer["logprob"] == math.fsum(expected[~np.isnan(expected)])


@pytest.mark.parametrize("window", [512, None])
def test_perplexity_is_that_of_the_command(
    kjv: LanguageModel, heldout: bytes, tmp_path: Path, window: int | None
) -> None:
    text = heldout[:6000].decode()
    source = write_jsonl(tmp_path / "text.jsonl", [{"id": 0, "text": text}])
    report = run_batch(kjv, source, tmp_path / "out", ScoreTask(window, logprobs=False))
    expected = perplexity(kjv, text, window=window)
    assert report.perplexity == pytest.approx(expected.perplexity, abs=1e-6)
    assert report.bits_per_byte == pytest.approx(expected.bits_per_byte, abs=1e-6)
    assert report.totals.predicted_tokens == expected.tokens
    assert "logprobs" not in lines(tmp_path / "out")[0]


def test_vectors_are_those_of_one_by_one(kjv: LanguageModel, tmp_path: Path) -> None:
    rows = records("text")
    run_batch(kjv, write_jsonl(tmp_path / "texts.jsonl", rows), tmp_path / "out", EmbedTask("last"), block_rows=4)
    for row, answer in zip(rows, lines(tmp_path / "out"), strict=True):
        expected = kjv.embed(row["text"], pooling="last")
        assert np.array(answer["embedding"], np.float32).tobytes() == expected.tobytes()


def test_seeds_depend_on_the_id_and_not_on_the_place(kjv: LanguageModel, tmp_path: Path) -> None:
    rows = [{"id": name, "prompt": "And"} for name in "abc"]
    texts = []
    for number, (order, seed) in enumerate([(rows, 0), (rows[::-1], 0), (rows, 1)]):
        source = write_jsonl(tmp_path / f"{number}.jsonl", order)
        run_batch(kjv, source, tmp_path / f"out{number}", GenerateTask(max_tokens=12, seed=seed))
        texts.append({answer["id"]: answer["text"] for answer in lines(tmp_path / f"out{number}")})
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0].values())) > 1


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_answers_do_not_depend_on_blocks_and_slots(kjv: LanguageModel, tmp_path: Path, task: ScoreTask) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", records(task.text_field))
    other = replace(task, slots=3, cache_bytes=0) if isinstance(task, GenerateTask) else task
    run_batch(kjv, source, tmp_path / "one", task)
    run_batch(kjv, source, tmp_path / "many", other, block_rows=3)
    assert len(list((tmp_path / "many").glob("answers-*.jsonl"))) == 5
    assert lines(tmp_path / "one") == lines(tmp_path / "many")


def test_lines_of_a_text_are_records(kjv: LanguageModel, tmp_path: Path) -> None:
    source = tmp_path / "text.txt"
    source.write_bytes("In\r\n\nthe beginning\n\xff\nlast".encode("latin-1"))
    run_batch(kjv, source, tmp_path / "out", ScoreTask(), block_rows=2)
    assert [(one["id"], one["tokens"]) for one in lines(tmp_path / "out")] == [(1, 2), (3, 13), (5, 4)]
    (bad,) = lines(tmp_path / "out" / "errors", "*")
    assert bad == {"id": None, "line": 4, "error": "expected a text in UTF-8, got the byte 0xff at 0"}


@pytest.mark.parametrize("name", ["in.jsonl", "in.txt"])
def test_the_byte_order_mark_of_an_editor_is_not_text(kjv: LanguageModel, tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    source.write_bytes(b'\xef\xbb\xbf{"id": 1, "text": "x"}\n{"id": 2, "text": "\xef\xbb\xbfx"}\n')
    run_batch(kjv, source, tmp_path / "out", ScoreTask())
    assert [one["tokens"] for one in lines(tmp_path / "out")] == ([1, 4] if name == "in.jsonl" else [22, 25])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{bad", "got something else"),
        ("[1]", "got a JSON list"),
        ('{"id": 1, "id": 2}', "the key 'id' twice"),
        ('{"prompt": "x"}', "id: expected a string or an integer, got none"),
        ({"id": 1.5, "prompt": "x"}, "id: expected a string or an integer, got 1.5"),
        ({"id": True, "prompt": "x"}, "id: expected a string or an integer"),
        ({"id": "", "prompt": "x"}, "id: expected a string or an integer"),
        ({"id": "x" * 600, "prompt": "x"}, "id: expected at most 512 characters, got 600"),
        ({"id": "good", "prompt": "x"}, "id: expected one of its own, got that of line 1"),
        ({"id": 1}, "prompt: expected a text or token ids, got none"),
        ({"id": 1, "text": "x"}, "prompt: expected a text or token ids, got none; the record has text"),
        ({"id": 1, "prompt": {}}, "prompt: expected a text or token ids, got dict"),
        ({"id": 1, "prompt": ""}, "prompt: expected at least one token, got none"),
        ({"id": 1, "prompt": [3, 999]}, "999"),
        ({"id": 1, "prompt": [10**19]}, "tokens[0]: expected an id from 0 to 255"),
        ({"id": 1, "prompt": "\ud800"}, "got the lone surrogate"),
        ({"id": "\ud800", "prompt": []}, "prompt: expected at least one token, got none"),
        ({"id": 1, "prompt": "x", "temperature": "hot"}, "temperature: expected a non-negative number"),
        ({"id": 1, "prompt": "x", "max_tokens": -1}, "max_tokens: expected a non-negative integer"),
        ({"id": 1, "prompt": "x", "stop": [""]}, "stop: expected a text, or at most 16"),
        ({"id": 1, "prompt": "x", "seed": 0.5}, "seed: expected an integer, got 0.5"),
        ({"id": 1, "prompt": "x", "logit_bias": {"x": 1}}, "logit_bias: expected an object of token ids"),
        ({"id": 1, "prompt": "x", "n": 2}, "n: expected none, since batches do not support it, got 2"),
    ],
)
def test_a_bad_record_is_written_to_the_error_file(
    kjv: LanguageModel, tmp_path: Path, row: dict[str, object] | str, reason: str
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": "good", "prompt": "And"}, row])
    report = run_batch(kjv, source, tmp_path / "out", GenerateTask(max_tokens=1))
    assert [answer["id"] for answer in lines(tmp_path / "out")] == ["good"]
    (bad,) = lines(tmp_path / "out" / "errors", "errors-000000.jsonl")
    assert reason in bad["error"]
    assert bad["line"] == 2
    assert (report.totals.answers, report.totals.bad) == (1, 1)


def test_an_empty_prompt_begins_with_the_end_of_text(kjv_checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = WorldTokenizer([b"", *(bytes([value]) for value in range(1, 256))])
    model = load(kjv_checkpoint, tokenizer=tokenizer)
    rows: list[dict[str, object]] = [{"id": 1, "prompt": ""}, {"id": 2, "prompt": []}, {"id": 3, "prompt": [0]}]
    rows.append({"custom_id": "4", "url": "/v1/completions", "body": {"prompt": ""}})
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    report = run_batch(model, source, tmp_path / "out", GenerateTask(max_tokens=4, sampling={"temperature": 0}))
    assert report.totals.bad == 0
    text = "".join(model.generate("", max_tokens=4, temperature=0))
    *plain, completion = lines(tmp_path / "out")
    assert [(one["text"], one["prompt_tokens"]) for one in plain] == [(text, 1)] * 3
    assert completion["response"]["body"]["choices"][0]["text"] == text


@pytest.mark.parametrize("workers", [False, True])
def test_a_field_that_is_almost_another_is_warned_of_once(
    kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path, workers: bool
) -> None:
    own = {"prompt": "x", "prompt2": "y", "prompt_id": 3, "topic": "z", "max_tokens": 1, "max_token": 2}
    rows = [{"id": 1, "temperatur": 0, **own}, {"id": 2, "temperatur": 0, "top-p": 1, **own}]
    rows.append({"custom_id": "3", "url": "/v1/completions", "body": {"prompt": "x", "top_logprobs": 0, "topK": 2}})
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    others = LocalProcesses(kjv_checkpoint, 1) if workers else None
    with pytest.warns(RuntimeWarning) as warned:
        report = run_batch(kjv, source, tmp_path / "out", GenerateTask(max_tokens=1), block_rows=1, workers=others)
    assert report.totals.answers == 3
    assert sorted(str(one.message) for one in warned) == [
        "line 1: the field 'temperatur' has no effect; did you mean 'temperature'?",
        "line 2: the field 'top-p' has no effect; did you mean 'top_p'?",
        "line 3: the field 'topK' has no effect; did you mean 'top_k'?",
    ]


def test_a_task_of_others_need_not_name_its_fields(
    kjv: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ScoreTask, "optional_fields")
    source = write_jsonl(tmp_path / "in.jsonl", [{"id": 1, "text": "x", "temperatur": 0}])
    assert run_batch(kjv, source, tmp_path / "out", ScoreTask()).totals.answers == 1


def test_a_line_that_is_too_long_is_a_bad_record(
    kjv: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwkv_cy.batch.inputs.MAX_LINE", 40)
    rows = [{"id": 1, "text": "x" * 200}, {"id": 2, "text": "y"}, {"id": 3, "text": "z" * 90}]
    run_batch(kjv, write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out", ScoreTask())
    assert [answer["id"] for answer in lines(tmp_path / "out")] == [2]
    assert [bad["line"] for bad in lines(tmp_path / "out" / "errors", "*")] == [1, 3]


def test_too_many_bad_records_end_the_job_and_a_higher_limit_completes_it(kjv: LanguageModel, tmp_path: Path) -> None:
    rows = [*records("text", 6), "{", "{", *records("text", 2)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    with pytest.raises(FormatError, match=r"expected at most 1 bad records, got 2; the last is on line 8: .*errors"):
        run_batch(kjv, source, tmp_path / "out", ScoreTask(), block_rows=4, max_bad=1)
    assert [path.name for path in (tmp_path / "out").glob("answers-*")] == ["answers-000000.jsonl"]
    assert [bad["line"] for bad in lines(tmp_path / "out" / "errors", "*")] == [7, 8]
    report = run_batch(kjv, source, tmp_path / "out", ScoreTask(), block_rows=4, max_bad=2)
    assert report.complete
    assert (report.totals.answers, report.run_records) == (8, 4)


def test_a_complete_folder_is_not_written_again_and_a_lost_shard_is(kjv: LanguageModel, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", records())
    first = run_batch(kjv, source, tmp_path / "out", GenerateTask(max_tokens=4), block_rows=5)
    before = contents(tmp_path / "out")
    stamps = {path: path.stat().st_ino for path in (tmp_path / "out").glob("answers-*")}
    again = run_batch(kjv, source, tmp_path / "out", GenerateTask(max_tokens=4), block_rows=5)
    assert (again.run_records, again.totals, again.complete) == (0, first.totals, True)
    assert {path: path.stat().st_ino for path in (tmp_path / "out").glob("answers-*")} == stamps
    (tmp_path / "out" / "answers-000001.jsonl").unlink()
    third = run_batch(kjv, source, tmp_path / "out", GenerateTask(max_tokens=4), block_rows=5)
    assert third.run_records == 5
    assert contents(tmp_path / "out") == before


def test_parts_together_are_the_whole(kjv: LanguageModel, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", records("text"))
    run_batch(kjv, source, tmp_path / "whole", EmbedTask(), block_rows=3)
    parts = [run_batch(kjv, source, tmp_path / "out", EmbedTask(), block_rows=3, part=Part(i, 2)) for i in (1, 2)]
    assert [(one.run_records, one.complete) for one in parts] == [(8, False), (6, True)]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    with pytest.raises(ConfigError, match="part: expected 1/2 to 2/2, got 3"):
        Part(3, 2)


class Reversed(ByteTokenizer):
    """Another tokenizer of as many tokens."""

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return bytes(255 - token for token in tokens)


def test_another_batch_in_the_folder_is_refused(kjv: LanguageModel, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", records("text"))
    out = tmp_path / "out"
    run_batch(kjv, source, out, ScoreTask())
    with pytest.raises(ConfigError, match=r"expected the same settings\.window as in the earlier run, null, got 8"):
        run_batch(kjv, source, out, ScoreTask(8))
    with pytest.raises(ConfigError, match='expected the same task as in the earlier run, "score", got "embed"'):
        run_batch(kjv, source, out, EmbedTask())
    with pytest.raises(ConfigError, match="expected the same block_rows as in the earlier run, 256, got 3"):
        run_batch(kjv, source, out, ScoreTask(), block_rows=3)
    other = LanguageModel(kjv.config, kjv.parameters, Reversed(), kjv.fingerprint)
    with pytest.raises(ConfigError, match="expected the same tokenizer as in the earlier run"):
        run_batch(other, source, out, ScoreTask())
    write_jsonl(source, records("text", 3))
    with pytest.raises(ConfigError, match="expected the same input.size as in the earlier run"):
        run_batch(kjv, source, out, ScoreTask())
    (out / "manifest.json").write_text("{")
    with pytest.raises(FormatError, match=r"manifest\.json"):
        run_batch(kjv, source, out, ScoreTask())


def test_a_folder_that_is_in_use_or_has_other_files_is_refused(kjv: LanguageModel, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", records("text", 2))
    with (
        Folder(tmp_path / "out").locked("1-1"),
        pytest.raises(StorageError, match="got one that another process works on"),
    ):
        run_batch(kjv, source, tmp_path / "out", ScoreTask())
    with pytest.raises(StorageError, match=r"got one with in\.jsonl; choose another folder"):
        run_batch(kjv, source, tmp_path, ScoreTask())
    assert [path.name for path in tmp_path.iterdir() if path.name != "out"] == ["in.jsonl"]


def test_an_input_whose_name_is_not_utf_8(kjv: LanguageModel, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "\udcff.jsonl", records("text", 1))
    for runs in (1, 0):
        assert run_batch(kjv, source, tmp_path / "out", ScoreTask()).run_records == runs
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["input"]["name"] == "\\udcff.jsonl"


def test_damaged_sums_are_refused(kjv: LanguageModel, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", records("text", 2))
    run_batch(kjv, source, tmp_path / "out", ScoreTask())
    (tmp_path / "out" / "blocks" / "000000.json").write_text('{"answers": 2}')
    with pytest.raises(FormatError, match=r"000000\.json: expected the numbers answers, bad"):
        run_batch(kjv, source, tmp_path / "out", ScoreTask())


def test_inputs_that_cannot_be_read(kjv: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.jsonl .* or \.parquet, got '\.csv'; convert it"):
        run_batch(kjv, tmp_path / "in.csv", tmp_path / "out", ScoreTask())
    with pytest.raises(StorageError, match=r"in\.jsonl"):
        run_batch(kjv, tmp_path / "in.jsonl", tmp_path / "out", ScoreTask())
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(StorageError, match="expected a regular file"):
        run_batch(kjv, tmp_path / "folder.txt", tmp_path / "out", ScoreTask())


def test_impossible_settings() -> None:
    with pytest.raises(ConfigError, match="window: expected at least 2 tokens, got 1"):
        ScoreTask(1)
    with pytest.raises(ConfigError, match="pooling: expected one of mean, last"):
        EmbedTask("max")
    for name, value in (("max_tokens", -1), ("slots", 0), ("cache_bytes", -1), ("seed", 0.5), ("slots", True)):
        with pytest.raises(ConfigError, match=f"{name}: expected an integer of at least"):
            GenerateTask(**{name: value})  # type: ignore[arg-type]


def test_impossible_numbers(kjv: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected at least 1 and 0, got 0 and 100"):
        run_batch(kjv, tmp_path / "in.jsonl", tmp_path / "out", ScoreTask(), block_rows=0)
    source = write_jsonl(tmp_path / "in.jsonl", records(count=2))
    report = run_batch(kjv, source, tmp_path / "out", GenerateTask(sampling={"top_p": 2.0}))
    assert report.totals.bad == 2
    assert GenerationError("top_p").args[0] in lines(tmp_path / "out" / "errors", "*")[0]["error"]


def test_progress(kjv: LanguageModel, tmp_path: Path) -> None:
    seen: list[Progress] = []
    source = write_jsonl(tmp_path / "in.jsonl", records("text", 5))
    report = run_batch(kjv, source, tmp_path / "out", ScoreTask(), progress=seen.append)
    last = seen[-1]
    assert (last.rows, last.total_rows, last.records, last.tokens) == (5, 5, 5, report.totals.read_tokens)
    assert last.tokens_per_second == last.tokens / last.seconds


def test_an_empty_input_is_a_complete_batch(kjv: LanguageModel, tmp_path: Path) -> None:
    for task in TASKS[:2]:
        source = write_jsonl(tmp_path / "in.jsonl", [])
        report = run_batch(kjv, source, tmp_path / task.name, task)
        assert (report.complete, report.totals.answers, report.perplexity) == (True, 0, None)
        assert json.loads((tmp_path / task.name / "manifest.json").read_text())["input"]["rows"] == 0
