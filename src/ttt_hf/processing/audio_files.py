"""Decodes audio files block by block to one mono waveform: by libsndfile, else by PyAV."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import soundfile

from .audio_inputs import MAX_SAMPLING_RATE, check_rate
from .fetching import MAX_BYTES
from .truncation import check_complete, cut_short, is_unknown_size, sample_chunk


MAX_SECONDS = 3600.0
MAX_CHANNELS = 64
# An hour at 48 kHz, 660 MiB: small files may decode to any size.
MAX_SAMPLES = 3600 * 48_000
# Samples of all channels that are decoded at a time.
_BLOCK_SAMPLES = 1 << 18
# By how many seconds the durations in headers of MP4, WebM and WMA are off.
_DURATION_ERROR = 0.25
# A mix that is quieter than the loudest channel by this factor has lost its sound: the channels cancel each other.
CANCELLED = 0.1

READABLE_FORMATS = "WAV, FLAC, OGG and MP3 can be read, WebM, MP4, M4A, AAC, WMA and AMR with the package av"
# Formats of PyAV by the bytes that their files begin with. A demuxer is never guessed from the content: some open
# further files and addresses that the content names.
_MAGIC = (
    (0, b"\x1a\x45\xdf\xa3", "matroska", "WebM or Matroska"),
    (4, b"ftyp", "mp4", "MP4 or M4A"),
    (4, b"moov", "mp4", "MP4 or M4A"),
    (4, b"mdat", "mp4", "MP4 or M4A"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf", "WMA"),
    (0, b"#!AMR", "amr", "AMR"),
    (0, b"\xff\xf1", "aac", "AAC"),
    (0, b"\xff\xf9", "aac", "AAC"),
    (0, b"OggS", "ogg", "Ogg"),
    (8, b"WAVE", "wav", "WAV of a rare kind"),
)


def decode(file: BinaryIO, name: str) -> tuple[np.ndarray, int]:
    """Decodes a file.

    Args:
        file: A seekable file.
        name: Name of the source in messages.

    Returns:
        Float32 of shape `(samples,)`, channels mixed, and its rate in Hz.

    Raises:
        ValueError: If it is not audio, damaged, cut short, or too long.
    """
    with _opened(file, name) as audio:
        mixed, loudest = _mix_blocks(audio.blocks(), audio.rate, name)
        audio.check_end()
    if loudest is None:
        return mixed, audio.rate
    # Channels that cancel each other are rare: decoding again is cheaper than to keep them all.
    with _opened(file, name) as audio:
        return _concatenate([block[loudest].copy() for block in audio.blocks()]), audio.rate


def duration(file: BinaryIO, name: str) -> float:
    """Duration in seconds by the header; decodes files whose header does not tell. Raises as `decode`."""
    with _opened(file, name) as audio:
        if audio.frames is not None:
            return audio.frames / audio.rate
    samples, rate = decode(file, name)
    return len(samples) / rate


def mix_down(channels: np.ndarray) -> np.ndarray:
    """The mean of samples `(channels, samples)`, or the loudest channel where they cancel each other."""
    mixed, loudest = _mix_blocks(iter([channels]), MAX_SAMPLING_RATE, "The audio")
    return mixed if loudest is None else channels[loudest]


def too_long(name: str, seconds: float) -> ValueError:
    """The error of audio longer than `MAX_SECONDS`."""
    return ValueError(f"{name} is {seconds:.0f} s long, more than {MAX_SECONDS:.0f} s: cut it into pieces.")


@np.errstate(all="ignore")  # samples that are infinite are refused later
def _mix_blocks(blocks: Iterator[np.ndarray], rate: int, name: str) -> tuple[np.ndarray, int | None]:
    """The mean of all channels, and the loudest channel if they cancel each other."""
    means: list[np.ndarray] = []
    count = 0
    energy = total = np.zeros(1)
    for block in blocks:
        count += block.shape[1]
        if count > MAX_SECONDS * rate:
            raise ValueError(f"{name} is longer than {MAX_SECONDS:.0f} s: cut it into pieces.")
        if count > MAX_SAMPLES:
            raise ValueError(f"{name} holds more than {MAX_SAMPLES} samples: resample it to 48 kHz, or cut it.")
        mean = block.mean(axis=0, dtype=np.float32) if len(block) > 1 else block[0].copy()
        means.append(mean)
        if len(block) > 1:
            # The mix counts as one more channel.
            rows = np.concatenate([block, mean[None]])
            total = total + rows.sum(axis=1, dtype=np.float64)
            energy = energy + np.einsum("cs,cs->c", rows, rows, dtype=np.float64)
    # Without the constant part, which is not heard.
    power = energy - total**2 / max(count, 1)
    loudest = int(power[:-1].argmax()) if len(power) > 1 else 0
    cancelled = len(power) > 1 and power[-1] < CANCELLED**2 * power[loudest]
    return _concatenate(means), loudest if cancelled else None


def _concatenate(blocks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


# -- libsndfile -------------------------------------------------------------------------------------------------------


class _Sequential(soundfile.SoundFile):
    """Reads on without seeking, which fails near the end of files of unknown length."""

    def seekable(self) -> bool:
        return False


class _Lenient:
    """A file whose positions stay within it: libsndfile calls it, and an exception would be printed, not raised."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read, self.tell = file.read, file.tell

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return self._file.tell()


class _SoundFile:
    """A file opened by libsndfile: `rate` in Hz, and `frames`, `None` if its header does not tell."""

    def __init__(self, audio: soundfile.SoundFile, name: str) -> None:
        self.rate = check_rate(audio.samplerate)
        if audio.channels > MAX_CHANNELS:
            raise ValueError(f"{name} has {audio.channels} channels, more than {MAX_CHANNELS}.")
        # By the header, before anything is decoded; FLAC in a pipe states the largest number.
        self.frames = audio.frames if audio.frames < 1 << 62 else None
        if self.frames is not None and self.frames > MAX_SECONDS * self.rate:
            raise too_long(name, self.frames / self.rate)
        self._audio = audio
        self._name = name
        self._decoded = 0

    def blocks(self) -> Iterator[np.ndarray]:
        """Float32 of shape `(channels, samples)`."""
        size = max(1, _BLOCK_SAMPLES // self._audio.channels)
        while True:
            try:
                block = self._audio.read(size, dtype="float32", always_2d=True).T
            except soundfile.LibsndfileError as error:
                end = f"{self._decoded / self.rate:.1f} s"
                raise ValueError(f"{self._name} is damaged or cut short after {end}: get it again.") from error
            if block.shape[1] == 0:
                return
            self._decoded += block.shape[1]
            yield block

    def check_end(self) -> None:
        """Raises a `ValueError` if `blocks` gave less than the header promises."""
        # Of MP3, the number is an estimate.
        if self.frames is not None and self._decoded < self.frames and self._audio.format not in ("MP3", "MPEG"):
            raise ValueError(cut_short(self._name, self._decoded / self.frames))


@contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Any]:
    check_complete(file, name)
    file = _with_size(file)
    try:
        audio = _Sequential(_Lenient(file))
    except (soundfile.LibsndfileError, TypeError) as error:
        # soundfile raises a TypeError for raw formats, which it recognises by the file name only.
        with _opened_by_av(file, name, error) as other:
            yield other
        return
    with audio:
        yield _SoundFile(audio, name)


def _with_size(file: BinaryIO) -> BinaryIO:
    """The file, or a copy with the size in its header where WAV was written to a pipe without."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    is_wav = file.read(4) == b"RIFF"
    chunk = sample_chunk(file) if is_wav else None
    file.seek(0)
    if chunk is None or not is_unknown_size(chunk[1]) or not chunk[0] < size <= MAX_BYTES:
        return file
    content = bytearray(file.read())
    content[4:8] = struct.pack("<I", size - 8)
    content[chunk[0] - 4 : chunk[0]] = struct.pack("<I", size - chunk[0])
    return io.BytesIO(content)


# -- PyAV -------------------------------------------------------------------------------------------------------------


@contextmanager
def _opened_by_av(file: BinaryIO, name: str, error: Exception) -> Iterator[Any]:
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    known = next((kind for kind in _MAGIC if head[kind[0] :].startswith(kind[1])), None)
    if known is None:
        raise ValueError(f"{name} is not audio that can be read ({READABLE_FORMATS}).") from error
    try:
        import av
    except ImportError:
        raise ValueError(
            f"{name} is {known[3]}, which needs the package av: pip install 'ttt-hf[audio]', or convert it to WAV."
        ) from error
    # A bare MemoryError is what PyAV raises for tables that a damaged header makes too large.
    try:
        with av.open(file, format=known[2], metadata_errors="replace") as container:
            yield _AvFile(container, name, is_timed=known[2] in ("mp4", "matroska", "asf"))
    except (av.FFmpegError, MemoryError, IndexError, UnicodeError) as failure:
        raise ValueError(f"{name} is damaged or cut short: get it again, or convert it to WAV.") from failure


class _AvFile:
    """A file opened by PyAV, like `_SoundFile`; `is_timed` if its header holds a duration that is no estimate."""

    def __init__(self, container: Any, name: str, is_timed: bool) -> None:
        if not container.streams.audio:
            raise ValueError(f"{name} has no sound.")
        self._container = container
        self._stream = container.streams.audio[0]
        self._name = name
        # A stream whose codec is not known has neither rate nor channels.
        if not getattr(self._stream, "rate", None):
            raise ValueError(f"{name} is damaged, or its sound is of a kind that is not known: convert it to WAV.")
        self.rate = check_rate(self._stream.rate)
        if self._stream.channels > MAX_CHANNELS:
            raise ValueError(f"{name} has {self._stream.channels} channels, more than {MAX_CHANNELS}.")
        # What browsers record has no duration; that of the file is also that of a video.
        seconds = float(self._stream.duration * self._stream.time_base) if self._stream.duration else 0.0
        if not seconds and container.duration and len(container.streams) == 1:
            seconds = container.duration / 1e6
        if seconds > MAX_SECONDS:
            raise too_long(name, seconds)
        self.frames = round(seconds * self.rate) if seconds > 0 else None
        self._promised = seconds if is_timed else 0.0
        self._end = 0.0

    def blocks(self) -> Iterator[np.ndarray]:
        """Float32 of shape `(channels, samples)`."""
        import av

        resampler = av.AudioResampler(format="fltp")
        for packet in self._container.demux(self._stream):
            if packet.is_corrupt:
                raise ValueError(f"{self._name} is damaged or cut short: get it again, or convert it to WAV.")
            for frame in packet.decode():
                if frame.sample_rate != self.rate:
                    raise ValueError(f"{self._name} changes its sampling rate: convert it to WAV.")
                # By its time: there may be gaps, such as silence that was not sent.
                start = self._end if frame.time is None else frame.time
                self._end = start + frame.samples / self.rate
                for part in resampler.resample(frame):
                    yield part.to_ndarray()

    def check_end(self) -> None:
        """Raises a `ValueError` if `blocks` gave less than the header promises."""
        if self._end < self._promised - _DURATION_ERROR:
            raise ValueError(cut_short(self._name, self._end / self._promised))
