"""Speech in the formats that clients ask for, encoded as it comes, by FFmpeg's libraries (PyAV)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        media_type: MIME type.
        container: FFmpeg's name of the container.
        codec: FFmpeg's name of the encoder.
        rates: Sampling rates in Hz that it can have; empty if any.
        options: Options of the container.
    """

    media_type: str
    container: str
    codec: str
    rates: Sequence[int] = ()
    options: dict[str, str] = field(default_factory=dict)


# Raw samples have the rate that clients of OpenAI expect of them, as nothing tells it.
PCM_RATE = 24_000
_PCM = Format(f"audio/pcm;rate={PCM_RATE}", "s16le", "pcm_s16le", (PCM_RATE,))
_MPEG_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
FORMATS = {
    "wav": Format("audio/wav", "wav", "pcm_s16le"),
    # A header with the number of frames, which is not known yet, would cut what follows.
    "mp3": Format("audio/mpeg", "mp3", "libmp3lame", _MPEG_RATES, {"write_xing": "0"}),
    "flac": Format("audio/flac", "flac", "flac"),
    "opus": Format("audio/ogg", "ogg", "libopus", (8000, 12_000, 16_000, 24_000, 48_000), {"page_duration": "200000"}),
    "aac": Format("audio/aac", "adts", "aac", _MPEG_RATES),
    "pcm16": _PCM,
    "pcm": _PCM,
}


class AudioEncoder:
    """Encodes one stream of samples.

    Args:
        name: Key of `FORMATS`.
        rate: Sampling rate of the samples in Hz.
    """

    def __init__(self, name: str, rate: int) -> None:
        form = FORMATS[name]
        # The next higher rate keeps all that is heard.
        out_rate = rate if not form.rates else min((own for own in form.rates if own >= rate), default=form.rates[-1])
        self._sink = _Sink()
        self._container = av.open(self._sink, "w", format=form.container, options=form.options)
        # By its annotation it could be a stream of video.
        self._stream: Any = self._container.add_stream(form.codec, rate=out_rate, layout="mono")
        sample_format: Any = self._stream.format
        self._resampler = av.AudioResampler(format=sample_format, layout="mono", rate=out_rate)
        self._rate = rate
        self._count = 0

    def push(self, samples: np.ndarray) -> bytes:
        """Takes float samples of shape `(samples,)`, clipped to [-1, 1]; returns the bytes that are complete."""
        if len(samples):
            clipped = np.clip(samples, -1.0, 1.0).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(clipped, format="flt", layout="mono")
            frame.sample_rate, frame.pts = self._rate, self._count
            self._count += len(samples)
            self._encode(frame)
        return self._sink.take()

    def finish(self) -> bytes:
        """Returns the rest."""
        self._encode(None)
        for packet in self._stream.encode(None):
            self._container.mux(packet)
        self._container.close()
        return self._sink.take()

    def _encode(self, frame: av.AudioFrame | None) -> None:
        for part in self._resampler.resample(frame):
            for packet in self._stream.encode(part):
                self._container.mux(packet)


class _Sink:
    """Where FFmpeg writes; it cannot go back, so that headers do not promise what is not known yet."""

    def __init__(self) -> None:
        self._content = bytearray()

    def write(self, content: bytes) -> int:
        self._content += content
        return len(content)

    def take(self) -> bytes:
        content, self._content = bytes(self._content), bytearray()
        return content


def encode_audio(samples: np.ndarray, rate: int, name: str) -> bytes:
    """Encodes a whole waveform `(samples,)` as a file in one of `FORMATS`."""
    encoder = AudioEncoder(name, rate)
    return encoder.push(samples) + encoder.finish()
