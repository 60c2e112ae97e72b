"""Keys of a terminal, one by one."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


HELD = b" "
# A held key repeats: about 30 times a second, the first time after a quarter to three quarters of a second.
RELEASE_SECONDS, FIRST_SECONDS = 0.3, 1.0


def wait_for_end_of_speech() -> None:
    """Waits until the space bar that is held is released, or Enter is pressed; Ctrl-D will do, too.

    Terminals do not tell when a key is released: it is when it repeats no more.
    """
    try:
        import termios
        import tty
    except ImportError:  # Windows, where a line ends it
        with suppress(EOFError):
            input("Speak, then press Enter. ")
        return
    from select import select

    print("Hold the space bar and speak, or speak and press Enter. ", end="", flush=True)
    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    patience: float | None = None
    try:
        tty.setcbreak(file)
        while select([file], [], [], patience)[0]:
            key = os.read(file, 1)
            if key in (b"\n", b"\r", b"\x04", b""):
                break
            if key == HELD:
                patience = FIRST_SECONDS if patience is None else RELEASE_SECONDS
    finally:
        # Repeats that are still under way are not to be taken for a line.
        termios.tcsetattr(file, termios.TCSAFLUSH, before)
        print()
