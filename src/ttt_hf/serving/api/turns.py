"""Where a speaker's turn begins and ends, by the level of the sound, and the samples of that turn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np


FRAME_SECONDS = 0.02
# Levels in dB below full scale. Nothing quieter than QUIETEST counts as speech, whatever the noise.
QUIETEST, FLOOR = -50.0, -70.0
# How much louder than the noise speech is, at a threshold of 1, and how much less it may be within a turn.
MARGIN, HYSTERESIS = 20.0, 4.0
# The noise is what is heard at the quietest moments; where it gets louder, it is followed at this speed.
RISE = 5.0  # dB a second
# Speech is at least this long; clicks are shorter.
LEAST_FRAMES = 4


@dataclass(frozen=True)
class TurnEvent:
    """Speech has begun or ended.

    Attributes:
        kind: Which of them.
        sample: The sample at which it has, counted from the first one.
    """

    kind: Literal["started", "stopped"]
    sample: int


class TurnDetector:
    """Tells speech from pauses by the level, relative to that of the noise.

    Args:
        rate: Sampling rate in Hz.
        threshold: From 0 to 1, how much louder than the noise speech has to be (0.5: 10 dB).
        silence_seconds: How long a pause ends a turn.
    """

    def __init__(self, rate: int, threshold: float = 0.5, silence_seconds: float = 0.5) -> None:
        self._frame = round(rate * FRAME_SECONDS)
        self._margin = MARGIN * threshold
        self._silent_frames = max(1, math.ceil(silence_seconds / FRAME_SECONDS))
        self._rest = np.zeros(0, dtype=np.float32)
        self._noise = QUIETEST
        self._position = 0
        self._run = 0
        self.is_speech = False

    def push(self, samples: np.ndarray) -> list[TurnEvent]:
        """Takes samples, float of shape `(samples,)`; returns what has happened in them."""
        samples = np.concatenate([self._rest, samples])
        count = len(samples) // self._frame
        self._rest = samples[count * self._frame :]
        frames = samples[: count * self._frame].reshape(count, self._frame)
        levels = 10 * np.log10(np.square(frames, dtype=np.float64).mean(axis=1) + 1e-12)
        return [event for level in levels.tolist() if (event := self._take(level)) is not None]

    def _take(self, level: float) -> TurnEvent | None:
        start = self._position
        self._position += self._frame
        self._noise = max(FLOOR, min(level, self._noise + RISE * FRAME_SECONDS))
        needed = max(QUIETEST, self._noise + self._margin - (HYSTERESIS if self.is_speech else 0.0))
        # Frames in a row that say the opposite of the present state
        self._run = self._run + 1 if (level > needed) != self.is_speech else 0
        if self._run < (self._silent_frames if self.is_speech else LEAST_FRAMES):
            return None
        first = start - (self._run - 1) * self._frame
        self.is_speech, self._run = not self.is_speech, 0
        return TurnEvent("started" if self.is_speech else "stopped", first)


class InputBuffer:
    """The sound that was sent and is not part of the conversation yet.

    Args:
        rate: Sampling rate in Hz.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.end = 0  # of what was sent, in samples
        self._start = 0
        self._pieces: list[np.ndarray] = []

    @property
    def seconds(self) -> float:
        """Duration of what it holds."""
        return (self.end - self._start) / self.rate

    def append(self, samples: np.ndarray) -> None:
        """Takes samples, float of shape `(samples,)`."""
        self._pieces.append(samples)
        self.end += len(samples)

    def take(self, start: int = 0) -> np.ndarray:
        """Returns all from a sample on, counted from the first one sent, and empties the buffer."""
        self.drop(start)
        samples = np.concatenate([np.zeros(0, dtype=np.float32), *self._pieces])
        self._pieces, self._start = [], self.end
        return samples

    def drop(self, start: int) -> None:
        """Forgets what is before a sample."""
        while self._pieces and self._start + len(self._pieces[0]) <= start:
            self._start += len(self._pieces.pop(0))
        if self._pieces and self._start < start:
            self._pieces[0] = self._pieces[0][start - self._start :]
            self._start = start
