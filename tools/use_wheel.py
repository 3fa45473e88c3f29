"""Use the installed package: convert and run the demo model, and share one model among eight threads.

Starts no other process, so that it also runs under an emulator; ``tools/check_wheel.py`` installs a wheel and runs it.
"""

from __future__ import annotations

import platform
import sys
import sysconfig
import tempfile
import threading
from pathlib import Path

import rwkv_cy
from rwkv_cy.__main__ import main
from rwkv_cy.kernels import dispatch

THREADS = 8
PROMPT = "In the beginning God created the heaven and the earth"


def command(*arguments: str) -> None:
    """Run the command line; exit with a message if it reports an error."""
    sys.argv = ["rwkv-cy", *arguments]
    try:
        code = main()
    except SystemExit as stop:
        code = stop.code
    if code:
        sys.exit(f"use_wheel: rwkv-cy {' '.join(arguments)} ended with code {code}")


def logits(model: rwkv_cy.LanguageModel) -> bytes:
    """Return the logits of a prompt and of the tokens that follow, one at a time."""
    tokens = model.tokenizer.encode(PROMPT)
    out, state = model.forward(tokens[:16])
    rows = [out.tobytes()]
    for token in tokens[16:]:
        out, state = model.forward([token], state)
        rows.append(out.tobytes())
    return b"".join(rows)


def share(model: rwkv_cy.LanguageModel) -> None:
    """Use one model in several Python threads; each must get what one thread alone gets."""
    expected, results = logits(model), []
    threads = [threading.Thread(target=lambda: results.append(logits(model))) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if results != [expected] * THREADS:
        sys.exit(f"use_wheel: expected the same logits in {THREADS} threads, got other ones")


def use() -> None:
    """Use everything that needs compiled modules, and say what ran."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "demo.h5"))
        command("convert", str(rwkv_cy.demo_model_path()), path)
        command("generate", path, "In the beginning", "--max-tokens", "32", "--seed", "1")
        with rwkv_cy.load(path) as model:
            share(model)
    gil = "with" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without"
    if gil == "with" and sysconfig.get_config_var("Py_GIL_DISABLED"):
        sys.exit("use_wheel: expected no module to need the GIL, got one that turned it on")
    print(
        f"\nPython {platform.python_version()} {gil} a GIL, {sys.platform} {platform.machine()},",
        f"{dispatch.active_instruction_set()}, {Path(dispatch.__file__).name}: works",
    )


if __name__ == "__main__":
    use()
