"""Radix tree: values at prefixes of token sequences; an edge holds the tokens that its texts have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Node", "RadixTree", "Tokens", "common_length"]

V = TypeVar("V")

Tokens = npt.NDArray[np.int32]


def common_length(a: Tokens, b: Tokens) -> int:
    """Return how many tokens at the beginning are equal."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    return int(different.argmax()) if different.any() else length


class Node(Generic[V]):
    """The end of an edge.

    Attributes
    ----------
    depth : int
        Tokens from the root to here.
    value : optional
        What belongs to the prefix that ends here.
    """

    __slots__ = ("children", "depth", "parent", "tokens", "value")

    def __init__(self, parent: Node[V] | None, tokens: Tokens) -> None:
        self.parent = parent
        self.tokens = tokens
        self.depth: int = len(tokens) + (parent.depth if parent is not None else 0)
        self.children: dict[int, Node[V]] = {}
        self.value: V | None = None

    def ancestors(self) -> Iterator[Node[V]]:
        """Yield the nodes above, from the parent to the root."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def prefix(self) -> Tokens:
        """Return the tokens from the root to here."""
        return np.concatenate([node.tokens for node in (self, *self.ancestors())][::-1])


class RadixTree(Generic[V]):
    """A map from token sequences to values that finds the longest known prefix.

    Attributes
    ----------
    tokens : int
        Tokens of all edges.
    """

    def __init__(self) -> None:
        self.root: Node[V] = Node(None, np.empty(0, np.int32))
        self.tokens = 0

    def walk(self, tokens: Tokens) -> tuple[list[Node[V]], int]:
        """Follow `tokens` from the root.

        Returns
        -------
        nodes : list of Node
            Those whose prefixes `tokens` begins with, the root first.
        common : int
            How many tokens are known: more than the depth of the last node if an edge is left in its middle.
        """
        node = self.root
        nodes = [node]
        while node.depth < len(tokens):
            child = node.children.get(int(tokens[node.depth]))
            if child is None:
                break
            common = common_length(child.tokens, tokens[node.depth :])
            if common < len(child.tokens):
                return nodes, node.depth + common
            nodes.append(child)
            node = child
        return nodes, node.depth

    def insert(self, tokens: Tokens) -> Node[V]:
        """Return the node of `tokens`, made if there is none."""
        nodes, common = self.walk(tokens)
        node = nodes[-1]
        if common > node.depth:
            node = self._split(node.children[int(tokens[node.depth])], common - node.depth)
        if common < len(tokens):
            child: Node[V] = Node(node, tokens[common:].copy())
            node.children[int(child.tokens[0])] = child
            self.tokens += len(child.tokens)
            node = child
        return node

    def remove(self, node: Node[V]) -> None:
        """Remove the value of a node, and the edges that lead to no other value."""
        node.value = None
        while node.parent is not None and node.value is None and not node.children:
            del node.parent.children[int(node.tokens[0])]
            self.tokens -= len(node.tokens)
            node = node.parent
        if node.parent is not None and node.value is None and len(node.children) == 1:
            (child,) = node.children.values()
            child.parent = node.parent
            child.tokens = np.concatenate([node.tokens, child.tokens])
            node.parent.children[int(child.tokens[0])] = child

    def _split(self, child: Node[V], length: int) -> Node[V]:
        """Divide the edge to a node after `length` tokens; return the node between the halves."""
        parent = child.parent
        assert parent is not None
        middle: Node[V] = Node(parent, child.tokens[:length].copy())
        parent.children[int(middle.tokens[0])] = middle
        child.parent, child.tokens = middle, child.tokens[length:].copy()
        middle.children[int(child.tokens[0])] = child
        return middle
