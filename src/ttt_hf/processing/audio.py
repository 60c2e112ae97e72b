"""Reads audio (a file, an address, bytes, samples) as a mono float32 waveform at a codec's rate, and checks it."""

from __future__ import annotations

import math
import os

import numpy as np
import soxr

from .audio_files import MAX_CHANNELS, MAX_SECONDS, decode, duration, mix_down, too_long
from .audio_inputs import AudioSource, check_rate, unpack_audio
from .fetching import USER, Access, is_address, open_source, short_name


MIN_SECONDS = 0.1
SILENCE_PEAK = 1e-4
# Decoded float audio may overshoot 1 a little; a peak beyond this is integer audio that was never scaled.
MAX_PEAK = 16.0


def load_audio(source: AudioSource, sampling_rate: int | None, target_rate: int, access: Access = USER) -> np.ndarray:
    """Reads audio and resamples it.

    Args:
        source: See `read_audio`.
        sampling_rate: Rate in Hz of samples; files have their own rate.
        target_rate: Rate in Hz of the result.
        access: See `read_audio`.

    Returns:
        Float32 of shape `(samples,)`, mono, in about [-1, 1].

    Raises:
        OSError: If the file cannot be opened or the address cannot be fetched.
        ValueError: If it is not usable audio.
        TypeError: If the source is none of the forms.
    """
    waveform, rate = read_audio(source, sampling_rate, access)
    return resample(waveform, rate, target_rate)


def read_audio(source: AudioSource, sampling_rate: int | None = None, access: Access = USER) -> tuple[np.ndarray, int]:
    """Reads audio at its own sampling rate and checks that it is usable.

    Args:
        source: A path, `-` for standard input, or an `http:`, `https:`, `file:` or `data:` address; the content of a
            file, or an open one; samples of shape `(samples,)`, `(channels, samples)` or `(samples, channels)` as an
            array, a tensor or a list: floats in [-1, 1] or 8, 16 or 32 bit integers over their full range; a pair of
            rate and samples; an audio cell of `datasets`, decoded or not.
        sampling_rate: Rate in Hz of samples; files have their own rate.
        access: What may be read: `fetching.USER` (everything), `TABLE` (no pipes) for sources in the user's data, or
            `STRANGER` (no local files or private addresses either) for those of requests and downloaded data.

    Returns:
        Float32 of shape `(samples,)`, and its rate in Hz. Channels are averaged; where they cancel each other, the
        loudest is taken.

    Raises:
        OSError: If the file cannot be opened or the address cannot be fetched; `PermissionError` if `access` does not
            allow it.
        ValueError: If it is not audio, is empty, silent, cut short, too short or too long, holds NaN or infinity, or
            if samples come without their rate.
        TypeError: If the source is none of the forms.
    """
    content, sampling_rate = unpack_audio(source, sampling_rate)
    name = "The audio"
    if isinstance(content, np.ndarray):
        if sampling_rate is None:
            raise ValueError("Samples need their rate: give sampling_rate in Hz next to the array.")
        waveform, rate = _mono(_scale(content)), check_rate(sampling_rate)
    elif isinstance(content, (str, os.PathLike)):
        name = short_name(content)
        with open_source(content, access) as file:
            waveform, rate = decode(file, name)
    else:
        waveform, rate = decode(content, name)
    return _check_waveform(waveform, rate, name), rate


def audio_seconds(source: str | os.PathLike[str] | bytes, access: Access = USER) -> float:
    """Duration of a file by its header, without decoding it if the header tells.

    Args:
        source: The file, or its content.
        access: See `read_audio`.

    Returns:
        Seconds.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is empty, not audio, cut short, or too long, or is an address, which is not fetched for this.
    """
    content, _ = unpack_audio(source)
    if isinstance(content, np.ndarray):
        raise ValueError("Samples have no header: divide their number by their rate.")
    if not isinstance(content, (str, os.PathLike)):
        return duration(content, "The audio")
    if isinstance(content, str) and is_address(content) and content[:5].casefold() not in ("file:", "data:"):
        raise ValueError(f"The duration of {short_name(content)} is not known before it is fetched.")
    with open_source(content, access) as file:
        return duration(file, short_name(content))


def resample(waveform: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Resamples a float32 waveform `(samples,)` with soxr's high quality filter; rates in Hz."""
    if rate == target_rate:
        return waveform
    return np.ascontiguousarray(soxr.resample(waveform, rate, target_rate, quality="HQ"), dtype=np.float32)


def _scale(array: np.ndarray) -> np.ndarray:
    """Scales integers from their full range to float32 in [-1, 1); floats keep their values."""
    # Arrays from files may have the byte order of another machine.
    kind = array.dtype.newbyteorder("=")
    # 8 bit audio is unsigned in WAV files, with 128 as zero.
    if kind == np.uint8:
        return (array.astype(np.float32) - 128.0) / 128.0
    if kind in (np.int8, np.int16, np.int32):
        # The lowest integer is -2^(bits - 1), which becomes -1.
        return (array / -float(np.iinfo(kind).min)).astype(np.float32)
    if np.issubdtype(kind, np.floating):
        # What is too large becomes infinite, and is refused as such.
        with np.errstate(over="ignore"):
            return array.astype(np.float32, copy=False)
    raise ValueError(
        f"Samples of type {array.dtype} have no agreed range: give floats in [-1, 1] or 8, 16 or 32 bit integers."
    )


def _mono(samples: np.ndarray) -> np.ndarray:
    if samples.ndim == 1:
        return samples
    # The shorter axis is that of the channels, as recordings have more samples than channels.
    channels = samples if samples.shape[0] <= samples.shape[1] else samples.T
    if len(channels) > MAX_CHANNELS:
        raise ValueError(
            f"The audio has shape {tuple(samples.shape)}: one axis must be channels (at most {MAX_CHANNELS})."
        )
    # The mean of no samples would be NaN; as an empty waveform it gets a clearer error.
    return mix_down(channels) if samples.size else samples.reshape(-1)


def _check_waveform(waveform: np.ndarray, rate: int, name: str) -> np.ndarray:
    seconds = len(waveform) / rate
    if len(waveform) == 0:
        raise ValueError(f"{name} holds no samples.")
    if seconds < MIN_SECONDS:
        count = f"{len(waveform)} sample{'s' if len(waveform) > 1 else ''}"
        raise ValueError(f"{name} is too short: {count}, at least {MIN_SECONDS} s are needed.")
    if seconds > MAX_SECONDS:
        raise too_long(name, seconds)
    low, high = float(waveform.min()), float(waveform.max())
    peak = max(high, -low)
    # Both are NaN or infinite if any sample is.
    if not math.isfinite(low + high):
        raise ValueError(f"{name} holds samples that are NaN or infinite.")
    if peak > MAX_PEAK:
        raise ValueError(
            f"{name} has a peak of {peak:.6g}, but float samples lie in [-1, 1]: divide by 32768 if it was 16 bit."
        )
    # A microphone or sound card may add a constant, which is not heard.
    if (high - low) / 2 < SILENCE_PEAK:
        what = f"peak {peak:.1e}" if peak < SILENCE_PEAK else f"all samples are about {low:.3g}"
        raise ValueError(f"{name} is silent ({what}): check the microphone or the channel.")
    return np.ascontiguousarray(waveform, dtype=np.float32)
