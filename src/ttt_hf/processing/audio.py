"""Reads audio (file, URL, bytes or array) as a mono float32 waveform at a codec's rate, and checks its quality."""

from __future__ import annotations

import io
import math
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import soundfile
import soxr


if TYPE_CHECKING:
    import torch

AudioSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | np.ndarray | torch.Tensor"

MIN_SECONDS = 0.1
MAX_SECONDS = 3600.0
SILENCE_PEAK = 1e-4
# Decoded float audio may overshoot 1 a little; a peak beyond this is integer audio that was never scaled.
MAX_PEAK = 16.0
MIN_SAMPLING_RATE = 1000
MAX_SAMPLING_RATE = 768_000
MAX_CHANNELS = 64
DOWNLOAD_TIMEOUT = 30.0
MAX_DOWNLOAD_BYTES = 1 << 30

READABLE_FORMATS = "WAV, FLAC, OGG and MP3 can be read"


def load_audio(source: AudioSource, sampling_rate: int | None, target_rate: int) -> np.ndarray:
    """Reads audio and resamples it.

    Args:
        source: A file, an http(s) URL, the content of a file, or samples; see `read_audio`.
        sampling_rate: Rate in Hz of samples; files have their own rate.
        target_rate: Rate in Hz of the result.

    Returns:
        Float32 of shape `(samples,)`, mono, in about [-1, 1].

    Raises:
        OSError: If the file cannot be opened or the URL cannot be fetched.
        ValueError: If it is not usable audio.
        TypeError: If the source is none of the above.
    """
    waveform, rate = read_audio(source, sampling_rate)
    return resample(waveform, rate, target_rate)


def read_audio(source: AudioSource, sampling_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Reads audio at its own sampling rate and checks that it is usable.

    Args:
        source: A file, an http(s) URL, the content of a file, or samples of shape `(samples,)`, `(channels, samples)`
            or `(samples, channels)`: floats in [-1, 1] or 8, 16 or 32 bit integers over their full range.
        sampling_rate: Rate in Hz of samples; files have their own rate.

    Returns:
        Float32 of shape `(samples,)`, channels averaged, and its rate in Hz.

    Raises:
        OSError: If the file cannot be opened or the URL cannot be fetched.
        ValueError: If it is not audio, is empty, silent, too short or too long, holds NaN or infinity, or if samples
            come without their rate.
        TypeError: If the source is none of the above.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        samples, rate = _decode(io.BytesIO(_download(source)), source)
        name = source
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        name = str(path)
        samples, rate = _read_file(path, _decode)
    elif isinstance(source, (bytes, bytearray)):
        name = "The audio"
        if not source:
            raise ValueError("The audio is empty (0 bytes).")
        samples, rate = _decode(io.BytesIO(source), name)
    else:
        name = "The audio"
        samples = _scale(_as_array(source))
        if sampling_rate is None:
            raise ValueError("Samples need their rate: give sampling_rate in Hz next to the array.")
        rate = _check_rate(sampling_rate)
    return _check_waveform(_mix_down(samples, name), rate, name), rate


def audio_seconds(source: str | os.PathLike[str] | bytes) -> float:
    """Duration of a file by its header, without decoding it.

    Args:
        source: The file, or its content.

    Returns:
        Seconds.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is empty, not audio, or too long.
    """
    if isinstance(source, bytes):
        if not source:
            raise ValueError("The audio is empty (0 bytes).")
        return _duration(io.BytesIO(source), "The audio")
    return _read_file(Path(source), _duration)


def resample(waveform: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Resamples a float32 waveform `(samples,)` with soxr's high quality filter; rates in Hz."""
    if rate == target_rate:
        return waveform
    return np.ascontiguousarray(soxr.resample(waveform, rate, target_rate, quality="HQ"), dtype=np.float32)


def _read_file(path: Path, read: Callable[[Any, str], Any]) -> Any:
    # Opened here, as the errors of soundfile do not tell a missing file from an unreadable one.
    try:
        with open(path, "rb") as file:
            # Pipes and devices have size 0 as well.
            if os.fstat(file.fileno()).st_size == 0 and path.is_file():
                raise ValueError(f"{path} is empty (0 bytes).")
            return read(file, str(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no audio file {path}.") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{path} is a folder, not an audio file.") from None
    except PermissionError:
        raise PermissionError(f"{path} may not be read: check its permissions.") from None


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response:
            # One byte more than allowed shows that a file is too large.
            content = response.read(MAX_DOWNLOAD_BYTES + 1)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise OSError(f"{url} cannot be fetched: {getattr(error, 'reason', error)}.") from error
    if len(content) > MAX_DOWNLOAD_BYTES:
        raise ValueError(f"{url} is larger than {MAX_DOWNLOAD_BYTES >> 20} MiB: download and cut it first.")
    if not content:
        raise ValueError(f"{url} is empty (0 bytes).")
    return content


def _decode(file: Any, name: str) -> tuple[np.ndarray, int]:
    with _opened(file, name) as audio:
        # (samples, channels) to (channels, samples)
        return audio.read(dtype="float32", always_2d=True).T, audio.samplerate


def _duration(file: Any, name: str) -> float:
    with _opened(file, name) as audio:
        return audio.frames / audio.samplerate


@contextmanager
def _opened(file: Any, name: str) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(file) as audio:
            rate = _check_rate(audio.samplerate)
            # By the header, before anything is decoded into memory.
            if audio.frames > MAX_SECONDS * rate:
                raise ValueError(_too_long(name, audio.frames / rate))
            yield audio
    except (soundfile.LibsndfileError, TypeError) as error:
        # soundfile raises a TypeError for raw formats, which it recognises by the file name only.
        raise ValueError(f"{name} is not audio that can be read ({READABLE_FORMATS}).") from error


def _as_array(source: Any) -> np.ndarray:
    if isinstance(source, np.ndarray):
        array = source
    elif hasattr(source, "detach"):  # a tensor, without importing torch to know it
        tensor = source.detach().cpu()
        # NumPy has no bfloat16.
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    else:
        raise TypeError(
            "Audio must be a file name, an http(s) URL, bytes, a NumPy array or a torch tensor, "
            f"not {type(source).__name__}."
        )
    if array.ndim not in (1, 2):
        raise ValueError(f"Samples must have shape (samples,) or (channels, samples), not {tuple(array.shape)}.")
    return array


def _scale(array: np.ndarray) -> np.ndarray:
    """Scales integers from their full range to float32 in [-1, 1); floats keep their values."""
    # 8 bit audio is unsigned in WAV files, with 128 as zero.
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128.0) / 128.0
    if array.dtype in (np.int8, np.int16, np.int32):
        # The lowest integer is -2^(bits - 1), which becomes -1.
        return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32, copy=False)
    raise ValueError(
        f"Samples of type {array.dtype} have no agreed range: give floats in [-1, 1] or 8, 16 or 32 bit integers."
    )


def _mix_down(samples: np.ndarray, name: str) -> np.ndarray:
    if samples.ndim == 1:
        return samples
    # The shorter axis is that of the channels, as recordings have more samples than channels.
    channel_axis = 0 if samples.shape[0] <= samples.shape[1] else 1
    if samples.shape[channel_axis] > MAX_CHANNELS:
        raise ValueError(
            f"{name} has shape {tuple(samples.shape)}: one axis must be channels (at most {MAX_CHANNELS})."
        )
    # The mean of no samples would be NaN; as an empty waveform it gets a clearer error.
    if samples.size == 0:
        return samples.reshape(-1)
    return samples.mean(axis=channel_axis, dtype=np.float32)


def _check_rate(rate: Any) -> int:
    # `bool` is a subclass of `int`; a float such as 16000.0 is fine.
    if isinstance(rate, bool) or not isinstance(rate, (int, np.integer, float)) or not math.isfinite(rate):
        raise ValueError(f"sampling_rate must be a number of Hz, not {rate!r}.")
    if rate != int(rate) or not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        raise ValueError(
            f"A sampling rate of {rate} Hz is not one of audio ({MIN_SAMPLING_RATE} to {MAX_SAMPLING_RATE} Hz)."
        )
    return int(rate)


def _check_waveform(waveform: np.ndarray, rate: int, name: str) -> np.ndarray:
    seconds = len(waveform) / rate
    if len(waveform) == 0:
        raise ValueError(f"{name} holds no samples.")
    if seconds < MIN_SECONDS:
        count = f"{len(waveform)} sample{'s' if len(waveform) > 1 else ''}"
        raise ValueError(f"{name} is too short: {count}, at least {MIN_SECONDS} s are needed.")
    if seconds > MAX_SECONDS:
        raise ValueError(_too_long(name, seconds))
    peak = float(np.abs(waveform).max())
    # The maximum is NaN or infinite if any sample is.
    if not math.isfinite(peak):
        raise ValueError(f"{name} holds samples that are NaN or infinite.")
    if peak > MAX_PEAK:
        raise ValueError(
            f"{name} has a peak of {peak:.6g}, but float samples lie in [-1, 1]: divide by 32768 if it was 16 bit."
        )
    if peak < SILENCE_PEAK:
        raise ValueError(f"{name} is silent (peak {peak:.1e}): check the microphone or the channel.")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _too_long(name: str, seconds: float) -> str:
    return f"{name} is {seconds:.0f} s long, more than {MAX_SECONDS:.0f} s: cut it into pieces."
