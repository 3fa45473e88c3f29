"""Install a wheel alone in a new environment, and use it from an empty folder, far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

#: Run by the Python of the new environment, which finds the package there.
USE = Path(__file__).resolve().with_name("use_wheel.py")


def run(*command: str | Path, folder: Path) -> str:
    """Run a command in `folder`, show it, and return what it printed."""
    print("$", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(f"check_wheel: {command[0]} ended with code {done.returncode}")
    return done.stdout


def main(wheel: Path) -> None:
    """Check `wheel`; exit with a message if it does not work."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "env", with_pip=True)
        programs = folder / "env" / "bin"
        work = folder / "elsewhere"
        work.mkdir()
        run(programs / "pip", "--disable-pip-version-check", "install", "--quiet", wheel.resolve(), folder=work)
        command = programs / "rwkv-cy"
        run(command, "info", folder=work)
        run(command, "models", folder=work)
        demo = run(programs / "python", "-c", "import rwkv_cy.demo as d; print(d.demo_model_path())", folder=work)
        run(command, "convert", demo.strip(), "demo.h5", folder=work)
        run(command, "inspect", "demo.h5", folder=work)
        run(command, "verify", "demo.h5", folder=work)
        text = run(command, "generate", "demo.h5", "In the beginning", "--max-tokens", "64", "--seed", "1", folder=work)
        if len(text) < 32:
            sys.exit(f"check_wheel: expected a text of the demo model, got {text!r}")
        where = run(programs / "python", "-c", "import rwkv_cy; print(rwkv_cy.__file__)", folder=work).strip()
        if not where.startswith(str(folder.resolve())):
            sys.exit(f"check_wheel: expected the installed package, got {where}")
        run(programs / "python", USE, folder=work)
        print(f"{wheel.name}: works alone")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
