"""A model of one checkout, run by :mod:`benchmarks.compare_trees` in a process of its own.

It uses nothing but the public functions that every version of the package has had. A request is a line of JSON with
`tokens`, or with `sequences`, a number of sequences that get a token each; the reply is the number of seconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import rwkv_cy

_WARM_UP = 2


def main() -> None:
    tree, path, activations, threads = sys.argv[1:]
    if not Path(rwkv_cy.__file__).is_relative_to(tree):
        sys.exit(f"expected the package of {tree}, got {rwkv_cy.__file__}")
    try:
        model = rwkv_cy.load(path, mmap=False, activations=activations)
    except TypeError:  # before `mmap`, the place of the weights had two names
        model = rwkv_cy.load(path, memory="resident", activations=activations)
    count = int(threads)
    _, state = model.forward([1], num_threads=count)
    batches = {}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if size := request.get("sequences"):
            tokens = list(range(1, size + 1))
            if size not in batches:
                batches[size] = model.forward_batch(tokens, num_threads=count)[1]
            states = batches[size]
            for _ in range(_WARM_UP):
                model.forward_batch(tokens, states, in_place=True, num_threads=count)
            start = time.perf_counter()
            model.forward_batch(tokens, states, in_place=True, num_threads=count)
        elif len(request["tokens"]) == 1:
            model.forward(request["tokens"], state, in_place=True, num_threads=count)
            start = time.perf_counter()
            model.forward(request["tokens"], state, in_place=True, num_threads=count)
        else:
            start = time.perf_counter()
            model.forward(request["tokens"], num_threads=count)
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
