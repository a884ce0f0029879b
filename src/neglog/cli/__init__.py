"""The entry point of the command line: an interrupt is exit code 130 from here on, within imports too.

The program itself is imported after the handler of SIGINT is installed; this module imports nothing slow.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType

GARBAGE_THRESHOLD = 100_000
"""Objects between two searches for garbage: imports make a million of them, none of which is garbage."""
INTERRUPTED = 130
"""Exit code of a process that SIGINT ended, as shells count it: 128 plus the number of the signal."""


def main() -> None:
    """Run the command line."""
    open_streams()
    gc.set_threshold(GARBAGE_THRESHOLD)
    handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else the parent ignores it
    if handled:
        signal.signal(signal.SIGINT, _interrupt)
    from neglog.cli.commands import run

    try:
        run()
    finally:
        gc.freeze()  # the interpreter would search all that was imported for garbage as it ends
        if handled:  # Exit code and output are final; what follows is the end of the interpreter.
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def open_streams() -> None:
    """Open streams that the caller has closed, as by ``>&-``, on the null device.

    A file that is opened later must not have the number of one, as it would receive its text.
    """
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; within an import, end the process at once.

    Extension modules such as NumPy's turn an exception within their import into an ImportError, or drop it.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"neglog: interrupted\n")
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
