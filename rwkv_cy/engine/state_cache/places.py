"""Where in a text states are stored: breakpoints, ends of messages, branches, and a ladder that thins out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["LEAST_GAP", "STEP", "WEIGHTS", "ladder", "places_of_prompt"]

#: How much the kinds of places are worth, relative to each other, when states are evicted.
WEIGHTS: Mapping[str, float] = {
    "breakpoint": 8.0,  # a request named the place
    "branch": 4.0,  # two texts part there
    "message": 2.0,
    "prompt": 1.0,  # the end of a prompt
    "answer": 0.5,  # the end of a text
    "ladder": 0.25,
}

#: A prompt stops at each place, which costs about as much as reading a few tokens: places that nobody named keep this
#: distance from each other.
LEAST_GAP = 32
#: Ends of messages at which a prompt stops: the last ones, since earlier ones are stored by earlier requests.
_MESSAGES = 4
#: Distance of the places of the ladder near the end of a text.
STEP = 512


def ladder(length: int) -> set[int]:
    """Return places before the end of a text of so many tokens, in multiples of 512, which thin out with distance.

    A multiple of 512 x 2^k stays until the text is 1024 x 2^k tokens longer, so that the places of a longer text are
    among those of a shorter one and what follows it.
    """
    last = (length - 1) // STEP
    return {place * STEP for place in range(1, last + 1) if last - place < 2 * (place & -place)}


def places_of_prompt(
    length: int, start: int, *, breakpoints: Iterable[int] = (), message_ends: Iterable[int] = (), branch: int = 0
) -> dict[int, str]:
    """Return where to store states while a prompt is read, with the kind of each place.

    Parameters
    ----------
    length : int
        Tokens of the prompt.
    start : int
        Tokens that need not be read.
    breakpoints, message_ends : iterable of int
        Named places, and ends of messages, in tokens from the beginning.
    branch : int, default 0
        Where the prompt leaves what is known.
    """
    places = {place: "breakpoint" for place in breakpoints if start < place < length}
    candidates = [
        *((branch, "branch"),) * (branch > 0),
        *((place, "message") for place in sorted(message_ends, reverse=True)[:_MESSAGES]),
        *((place, "ladder") for place in sorted(ladder(length))),
    ]
    for place, kind in candidates:
        near = [start, length, *places]
        if start < place < length and all(abs(place - other) >= LEAST_GAP for other in near):
            places[place] = kind
    places[length] = "prompt"
    return places
