"""The radix tree against a plain dictionary of all prefixes."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.engine.state_cache.radix_tree import Node, RadixTree, common_length


def array(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def nodes_of(node: Node[str]) -> list[Node[str]]:
    return [node, *(below for child in node.children.values() for below in nodes_of(child))]


def check(tree: RadixTree[str], values: dict[tuple[int, ...], str]) -> None:
    """Check the invariants: depths, edges, no needless nodes, and the values."""
    nodes = nodes_of(tree.root)
    assert {tuple(node.prefix().tolist()): node.value for node in nodes if node.value is not None} == values
    assert tree.tokens == sum(len(node.tokens) for node in nodes)
    for node in nodes:
        assert node.depth == len(node.prefix())
        assert all(child.parent is node and first == child.tokens[0] for first, child in node.children.items())
        assert node is tree.root or node.value is not None or len(node.children) > 1


@pytest.mark.parametrize(
    ("a", "b", "length"), [((), (1,), 0), ((1, 2), (1, 2), 2), ((1, 2), (1, 3), 1), ((1, 2, 3), (1, 2), 2)]
)
def test_common_length(a: tuple[int, ...], b: tuple[int, ...], length: int) -> None:
    assert common_length(array(*a), array(*b)) == length


@pytest.mark.parametrize("seed", range(8))
def test_random_operations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree: RadixTree[str] = RadixTree()
    values: dict[tuple[int, ...], str] = {}
    for _ in range(300):
        text = tuple(int(token) for token in rng.integers(0, 2, rng.integers(1, 12)))
        nodes, common = tree.walk(array(*text))
        known = max((common_length(array(*text), array(*other)) for other in values), default=0)
        assert common == known
        found = [node.depth for node in nodes if node.value is not None]
        assert found == [n for n in range(1, len(text) + 1) if text[:n] in values]
        if rng.random() < 0.6:
            node = tree.insert(array(*text))
            node.value = values[text] = str(rng.integers(1000))
        elif values:
            text = list(values)[rng.integers(len(values))]
            node = tree.walk(array(*text))[0][-1]
            assert node.value == values.pop(text)
            tree.remove(node)
        check(tree, values)


def test_an_empty_tree() -> None:
    tree: RadixTree[str] = RadixTree()
    assert tree.walk(array(1, 2)) == ([tree.root], 0)
    assert tree.insert(array()) is tree.root
