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

#: What the model is loaded as; None is as it is stored.
DTYPES = (None, "f32", "bf12", "q8", "q4")
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


def text(model: rwkv_cy.LanguageModel) -> str:
    """Return a text that the model generates."""
    return "".join(model.generate(PROMPT, max_tokens=32, seed=1))


def share(model: rwkv_cy.LanguageModel, dtype: str | None) -> None:
    """Use one model in several Python threads; each must get what one thread alone gets."""
    expected, results = (logits(model), text(model)), []
    barrier = threading.Barrier(THREADS)

    def use() -> None:
        barrier.wait()
        results.append((logits(model), text(model)))

    threads = [threading.Thread(target=use) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if results != [expected] * THREADS:
        sys.exit(f"use_wheel: {dtype}: expected the same logits and text in {THREADS} threads, got other ones")


def use() -> None:
    """Use everything that needs compiled modules, and say what ran."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "demo.h5"))
        command("convert", str(rwkv_cy.demo_model_path()), path)
        command("generate", path, "In the beginning", "--max-tokens", "32", "--seed", "1")
        for dtype in DTYPES:
            with rwkv_cy.load(path, dtype=dtype) as model:
                share(model, dtype)
    gil = "with" if getattr(sys, "_is_gil_enabled", lambda: True)() else "without"
    if gil == "with" and sysconfig.get_config_var("Py_GIL_DISABLED"):
        sys.exit("use_wheel: expected no module to need the GIL, got one that turned it on")
    print(
        f"\nPython {platform.python_version()} {gil} a GIL, {sys.platform} {platform.machine()},",
        f"{dispatch.active_instruction_set()}, {Path(dispatch.__file__).name}: works",
    )


if __name__ == "__main__":
    use()
