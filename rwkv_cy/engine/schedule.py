"""Who runs in a step, and with how many tokens: prompts in pieces that share a budget, the ends of prompts first."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FIRST_TOKENS", "prompt_shares"]

#: The ends of prompts are read in a pass of their own if they have so many tokens: their first tokens do not wait for
#: the tokens of those who generate, who run in the next pass. Fewer tokens take less time than reading the weights.
FIRST_TOKENS = 8


def prompt_shares(unread: Sequence[int], budget: int) -> list[int]:
    """Divide a budget of tokens among prompts.

    The shortest prompts come first, each with at most an equal share of what is left: a short prompt is read in its
    first step, however long the others are, and every prompt has a share. Before the ends of prompts, which run alone,
    the engine leaves out those that do not end.

    Parameters
    ----------
    unread : sequence of int
        Unread tokens of each prompt, at least one.
    budget : int
        Tokens to divide.

    Returns
    -------
    list of int
        Tokens of each prompt, at least one: more than the budget in total if there are more prompts than that.
    """
    shares = [0] * len(unread)
    left = budget
    order = sorted(range(len(unread)), key=lambda i: unread[i])
    for place, i in enumerate(order):
        shares[i] = min(unread[i], max(1, left // (len(order) - place)))
        left -= shares[i]
    return shares
