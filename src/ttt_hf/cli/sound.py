"""Loudspeaker and microphone, through sounddevice (extra `sound`)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


# Longer recordings fit into no model's context; memory has an end, too.
MAX_SECONDS = 300.0
POLL_SECONDS = 0.02


def check_sound() -> Any:
    """Returns the module sounddevice.

    Raises:
        ModuleNotFoundError: If it is not installed.
        OSError: If the system has no PortAudio.
    """
    try:
        import sounddevice
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Speaking and listening need sounddevice: pip install 'ttt-hf[sound]'.", name=error.name
        ) from error
    except OSError as error:  # its wheels hold PortAudio for macOS and Windows only
        raise OSError(
            "Speaking and listening need the library PortAudio: install it, on Debian and Ubuntu with `apt-get "
            "install libportaudio2`."
        ) from error
    return sounddevice


@contextmanager
def _device_errors(sound: Any, device: str) -> Iterator[None]:
    try:
        yield
    # sounddevice raises ValueError where there is no device at all.
    except (sound.PortAudioError, ValueError) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise OSError(f"The {device} cannot be used ({reason}): connect one, or choose it in your system.") from error


class Player:
    """Plays samples while further ones are made.

    Args:
        sampling_rate: Rate in Hz.

    Attributes:
        is_stopped: Set it, from any thread or signal handler, to fall silent at once.

    Raises:
        OSError: If there is no loudspeaker.
    """

    def __init__(self, sampling_rate: int) -> None:
        self.is_stopped = False
        # The audio thread takes from it without a lock: each operation of a deque is atomic.
        self._waiting: deque[np.ndarray] = deque()
        sound = check_sound()
        with _device_errors(sound, "loudspeaker"):
            self._stream = sound.OutputStream(sampling_rate, channels=1, dtype="float32", callback=self._fill)
            self._stream.start()

    def play(self, samples: np.ndarray) -> None:
        """Takes samples, float of shape `(samples,)`; returns at once."""
        self._waiting.append(samples)

    def finish(self) -> None:
        """Waits until all has been played or `is_stopped` is set, and closes the device."""
        while self._waiting and not self.is_stopped:
            time.sleep(POLL_SECONDS)
        # stop() plays what the device has taken, abort() drops it.
        (self._stream.abort if self.is_stopped else self._stream.stop)()
        self._stream.close()

    def _fill(self, out: np.ndarray, frames: int, *_: Any) -> None:
        """Writes the next samples to `out` of shape `(frames, 1)`, and silence where there are none yet."""
        out[:] = 0
        filled = 0
        while filled < frames and self._waiting and not self.is_stopped:
            samples = self._waiting.popleft()
            part = samples[: frames - filled]
            out[filled : filled + len(part), 0] = np.clip(part, -1.0, 1.0)
            filled += len(part)
            if len(part) < len(samples):
                self._waiting.appendleft(samples[len(part) :])


def record(wait: Callable[[], object]) -> tuple[np.ndarray, int]:
    """Records the microphone until `wait` returns, `MAX_SECONDS` at most.

    Returns:
        Samples, float32 of shape `(samples,)`, and their rate in Hz, which is the microphone's own.

    Raises:
        OSError: If there is no microphone.
    """
    sound = check_sound()
    pieces: list[np.ndarray] = []
    with _device_errors(sound, "microphone"):
        rate = int(sound.query_devices(kind="input")["default_samplerate"])

        def take(samples: np.ndarray, *_: Any) -> None:
            # What the device writes to is used again after the call.
            if sum(map(len, pieces)) < MAX_SECONDS * rate:
                pieces.append(samples[:, 0].copy())

        stream = sound.InputStream(rate, channels=1, dtype="float32", callback=take)
    with stream:
        wait()
    return np.concatenate([np.zeros(0, dtype=np.float32), *pieces]), rate
