"""Speech ends when the space bar is released, or with Enter, in a real terminal device."""

import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from ttt_hf.cli import keys


pty = pytest.importorskip("pty", reason="needs pseudo-terminals")


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Where keys are pressed."""
    keyboard, terminal = pty.openpty()
    with os.fdopen(terminal) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield keyboard
    os.close(keyboard)


def wait() -> threading.Thread:
    thread = threading.Thread(target=keys.wait_for_end_of_speech, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("key", [b"\n", b"\x04"])
def test_enter_ends_it_and_other_keys_do_not(keyboard: int, key: bytes) -> None:
    waiting = wait()
    os.write(keyboard, b"ab")
    waiting.join(timeout=0.2)
    assert waiting.is_alive()
    os.write(keyboard, key)
    waiting.join(timeout=30)
    assert not waiting.is_alive()


def test_a_released_space_bar_ends_it(keyboard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Long, so that a busy machine does not end it early.
    monkeypatch.setattr(keys, "FIRST_SECONDS", 30.0)
    monkeypatch.setattr(keys, "RELEASE_SECONDS", 1.0)
    waiting = wait()
    for _ in range(10):
        os.write(keyboard, b" ")
        time.sleep(0.03)
    assert waiting.is_alive()
    waiting.join(timeout=30)
    assert not waiting.is_alive()
    # What was held is no line for the prompt behind it.
    os.write(keyboard, b"next\n")
    assert sys.stdin.readline() == "next\n"
