"""``python -m rwkv_cy`` and ``rwkv-cy``: the command, which can be interrupted while it is still being loaded."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

__all__ = ["main"]


def main() -> int:
    """Run the command and return its exit code; Ctrl-C ends it in one way, however early it comes."""
    interrupts: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    # Nothing is changed where the interrupt is ignored, or somebody else's.
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        from rwkv_cy.runtime import keep_blas_quiet

        keep_blas_quiet()
        from rwkv_cy.cli.main import main as run

        return run()
    except (KeyboardInterrupt, ImportError) as error:
        # A compiled module (NumPy's) that is interrupted while it is loaded says ImportError, without the cause.
        if not (interrupts or isinstance(error, KeyboardInterrupt)):
            raise
        print("rwkv-cy: interrupted", file=sys.stderr)
        return 130  # ExitCode.INTERRUPTED, whose module may not be loaded yet
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
