"""The skeleton of a file, written by several threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from rwkv_cy.storage import skeleton


def test_empty_files_are_made_side_by_side() -> None:
    with ThreadPoolExecutor(8) as pool:
        images = set(pool.map(lambda _: skeleton._empty_file(), range(800)))
    assert len(images) == 1
