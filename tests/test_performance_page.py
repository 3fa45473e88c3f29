"""Paragraphs of docs/performance.md that sum up its tables have the figures of these, in whatever words."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "performance.md").read_text("utf-8")
Table = list[dict[str, str]]


def tables(section: str) -> list[Table]:
    """Return the tables of a section: for each row, the cells by the names of their columns."""
    start = TEXT.index(f"\n{section}\n") + len(section)
    end = re.search(r"^#{2,3} ", TEXT[start:], re.MULTILINE)
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", TEXT[start : start + end.start() if end else None], re.MULTILINE):
        header, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
        found.append([dict(zip(header, row, strict=True)) for row in rows])
    return found


def assert_figures(topic: str, *figures: str) -> None:
    """Look for figures, in this order, in the one paragraph that has the words `topic`."""
    (paragraph,) = (line for line in TEXT.splitlines() if topic in line and line[0] not in "#|")
    assert re.search(".*".join(rf"\b{re.escape(figure)}" for figure in figures), paragraph), (figures, paragraph)


def percent(shares: list[float]) -> str:
    """Return the range of some shares as the page writes it."""
    return f"{round(100 * min(shares))} to {round(100 * max(shares))} %"


def test_memory_beyond_the_promise() -> None:
    (_, table) = tables("### Larger shapes")
    more = [int(row["measured, MB"]) - int(row["promised, MB"]) for row in table if row[""].endswith("resident")]
    assert_figures("beyond the promise", f"{min(more)} to {max(more)} MB")


def test_what_llama_cpp_uses_of_the_bandwidth() -> None:
    beside, every, _ = tables("### RWKV-7 beside llama.cpp")
    used = {row[""]: int(row["decode, % of bandwidth"].rstrip("%")) for row in every}
    ratios = {row[""]: float(row["decode, times as fast (beside)"].split()[0]) for row in beside}
    reading = {
        name: ratios[f"rwkv_cy, resident, {name}"] / used[f"rwkv_cy, resident, {name}"] for name in ("bf12", "q4")
    }
    bf12, q4 = (f"{100 * reading[name]:.1f}" for name in ("bf12", "q4"))
    shares = (f"{used[f'llama.cpp, {name}']} %" for name in ("f16", "q4_k"))
    assert_figures("llama.cpp uses", *shares, f"{bf12} times", f"{q4} times")


def test_the_divergence_of_four_bits_and_the_bytes_of_a_token() -> None:
    (table,) = tables("## Four to eight bits")
    rows = {(row["model"], row["types"]): row for row in table}
    divergence, saved = {}, []
    for model in ("demo", "7-0.1b", "169m"):
        for head in ("", ", head q6"):
            ours, theirs = rows[model, f"rwkv_cy, q4n{head}"], rows[model, f"llama.cpp, q4_k{head and head + '_k'}"]
            less = 1 - float(ours["KL divergence"]) / float(theirs["KL divergence"])
            divergence.setdefault(model == "demo", []).append(less)
            if model != "169m":
                saved.append(1 - float(ours["MB a token"]) / float(theirs["MB a token"]))
    assert_figures("diverges less than Q4_K", percent(divergence[True]), percent(divergence[False]), percent(saved))


def test_two_threads_beside_a_neighbour_are_nearly_as_fast_as_one() -> None:
    (table,) = tables("## Noisy neighbours")
    ratios = {row[""]: float(row["time, ratio to the first line"]) for row in table}
    assert 0.9 < ratios["2 threads, beside the neighbour"] < 1.1
