"""A recording as the model hears it: at the codec's rate and, if the codec asks for it, its speech alone.

What a person records begins and ends with silence, noise or a click. A codec whose configuration has `trim_silence:
true` was trained on clips that were cut around their speech, and gets recordings cut alike; any other codec, such as
those of released checkpoints, gets them as they are. Speech that a model learns to say is read by `load_audio`.

Speech is found by its level, as in Rabiner and Sambur, "An algorithm for determining the endpoints of isolated
utterances", 1975: a high threshold finds what is certainly speech, a low one how far it extends, and both rise with
the noise. Only the ends are cut: pauses stay.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from .audio import read_audio, resample
from .audio_inputs import AudioSource
from .fetching import USER, Access, short_name


# Key of processor_config.json.
MAX_SECONDS_KEY = "max_audio_seconds"
# Silence that is kept on each side of the speech, in seconds, and up to where a side is left as it is: a codec learns
# clips with such a margin, and one code (80 ms) more.
MARGIN, SLACK = 0.08, 0.16
# Noise that is nearer to the loudest frame than this, in dB, hides the ends of words: more is kept.
LOUD_NOISE, NOISY_MARGIN = 20.0, 0.5
# Frames of 40 ms, two periods of the mains, four times as dense; below the lowest frequency lie the constant, most of
# the hum and steps on the floor.
HOP, LOWEST_FREQUENCY = 0.01, 150.0
# Number of frames whose median says how loud it is: a click is in four.
MEDIAN = 9
# Thresholds in dB below the loudest frame, and above the noise.
LOW, HIGH = (40.0, 1.0), (30.0, 3.0)
# What is so much quieter than the loudest frame, in dB, is no noise but nothing at all.
DIGITAL_SILENCE = 70.0
# The noise: frames within this range of the quietest, in dB, if it is so far below the loudest and so many are in it.
NOISE_RANGE, NOISE_CONTRAST, NOISE_SHARE = 4.0, 8.0, 0.2
# Speech changes its level by more than this, in dB, once it is longer than this, in seconds.
SPEECH_CONTRAST, STEADY_SECONDS = 6.0, 1.0
# Speech is loud for so many frames in a row, a double click is not; sounds close to it, in seconds, belong to it.
LEAST_FRAMES, GAP = 10, 0.3
# Frames that are transformed at once, so that an hour takes little memory.
CHUNK = 8192


class NoSpeechError(ValueError):
    """A recording in which nobody speaks."""


def load_recording(
    source: AudioSource,
    sampling_rate: int | None,
    config: Any,
    access: Access = USER,
    is_heard: bool = True,
    max_seconds: float | None = None,
) -> np.ndarray:
    """Reads audio for a codec; the only way to its encoder.

    Args:
        source: See `read_audio`.
        sampling_rate: Rate in Hz of samples; files have their own rate.
        config: Configuration of the codec.
        access: See `read_audio`.
        is_heard: Whether the model hears it, see `hear`. What it learns to say, and has said, is resampled only.
        max_seconds: Longest recording, in seconds, after it was cut.

    Returns:
        Float32 of shape `(samples,)` at the codec's rate.

    Raises:
        NoSpeechError: If the codec takes speech alone, and there is none.
        ValueError: If the recording is longer, or for other reasons of `read_audio`.
        OSError, TypeError: As `read_audio` does.
    """
    waveform, rate = read_audio(source, sampling_rate, access)
    if not is_heard:
        return resample(waveform, rate, config.sampling_rate)
    name = short_name(source) if isinstance(source, (str, os.PathLike)) else "The audio"
    heard = hear(waveform, rate, config, name)
    seconds = len(heard) / config.sampling_rate
    if max_seconds is not None and seconds > max_seconds:
        speech = "of speech " if trims_silence(config) else ""
        raise ValueError(
            f"{name} has {seconds:.1f} s {speech}and this model was trained on at most {max_seconds:g} s: cut it into "
            "parts, at pauses, and ask for each of them."
        )
    return heard


def hear(waveform: np.ndarray, rate: int, config: Any, name: str = "The audio") -> np.ndarray:
    """A recording as the model hears it. Its level is the codec's own concern.

    Args:
        waveform: Float32 of shape `(samples,)`.
        rate: Its rate in Hz.
        config: Configuration of the codec: `sampling_rate`, and `trim_silence` if only the speech is to be heard.
        name: Of the recording, for errors.

    Returns:
        Float32 of shape `(samples,)` at the codec's rate; with `trim_silence` without a constant, and cut.

    Raises:
        NoSpeechError: If the codec takes speech alone, and there is none.
    """
    waveform = resample(waveform, rate, config.sampling_rate)
    if not trims_silence(config):
        return waveform
    waveform = waveform - waveform.mean(dtype=np.float64).astype(np.float32)
    speech = find_speech(waveform, config.sampling_rate)
    if speech is None:
        raise NoSpeechError(
            f"{name} holds no speech, only silence or steady noise: check the microphone, and speak closer to it."
        )
    return np.ascontiguousarray(waveform[speech])


def check_limit(seconds: Any) -> float | None:
    """Checks the value of `max_audio_seconds` in a processor_config.json; raises a `ValueError`."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise ValueError(f"{MAX_SECONDS_KEY} in processor_config.json must be a number of seconds, not {seconds!r}.")
    return float(seconds)


def trims_silence(config: Any) -> bool:
    """Whether a codec takes the speech of a recording alone."""
    return bool(getattr(config, "trim_silence", False))


def find_speech(waveform: np.ndarray, rate: int) -> slice | None:
    """Where the speech of a recording is, with a margin on both sides.

    Args:
        waveform: Float32 of shape `(samples,)`.
        rate: Its rate in Hz.

    Returns:
        Its samples, or `None` if there is no speech. A side with little silence is left as it is.
    """
    levels = frame_levels(waveform, rate)
    # For as long as speech lasts, not that of a click.
    length = min(LEAST_FRAMES, len(levels))
    loudest = float(np.lib.stride_tricks.sliding_window_view(levels, length).min(axis=-1).max())
    sounds = levels[levels > loudest - DIGITAL_SILENCE]
    quietest = float(np.quantile(sounds, 0.05))
    if len(waveform) > STEADY_SECONDS * rate and loudest < quietest + SPEECH_CONTRAST:
        return None
    noise = _noise_level(sounds, quietest, loudest)
    is_speech = levels > max(loudest - HIGH[0], noise + HIGH[1])
    is_sound = levels > max(loudest - LOW[0], noise + LOW[1])
    frames = _extent(is_speech, is_sound, length)
    if frames is None:
        return None
    # Frame i is centred on i hops.
    first, last = (round(frame * HOP * rate) for frame in frames)
    margin = round((NOISY_MARGIN if noise > loudest - LOUD_NOISE else MARGIN) * rate)
    slack = margin + round((SLACK - MARGIN) * rate)
    start = first - margin if first > slack else 0
    end = last + margin if len(waveform) - last > slack else len(waveform)
    return slice(start, end)


def frame_levels(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Level of each frame without its lowest frequencies.

    Args:
        waveform: Float32 of shape `(samples,)`.
        rate: Its rate in Hz.

    Returns:
        Float of shape `(frames,)`, in dB; frame `i` is centred on `i * HOP` seconds.
    """
    hop = round(HOP * rate)
    window = np.hanning(4 * hop + 1)[:-1]
    lowest = round(LOWEST_FREQUENCY * len(window) / rate)
    # Enough on both sides for the first and the last frame.
    padded = np.pad(waveform, (len(window) // 2, len(window)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, len(window))[: len(waveform) + 1 : hop]
    power = np.concatenate(
        [
            np.square(np.abs(np.fft.rfft(frames[start : start + CHUNK] * window)[:, lowest:])).mean(axis=1)
            for start in range(0, len(frames), CHUNK)
        ]
    )
    return 10 * np.log10(power + 1e-20)


def _noise_level(sounds: np.ndarray, quietest: float, loudest: float) -> float:
    """The highest level of the noise in dB, minus infinity if there is none."""
    noise = sounds[sounds <= quietest + NOISE_RANGE]
    if quietest + NOISE_RANGE > loudest - NOISE_CONTRAST or len(noise) < NOISE_SHARE * len(sounds):
        return -np.inf
    # Levels of steady noise lie about as far above their median as below; those of a hum may take two values.
    middle, high = np.quantile(noise, (0.5, 0.8))
    return float(max(quietest + 3 * (middle - quietest), high))


def _extent(is_speech: np.ndarray, is_sound: np.ndarray, least: int) -> tuple[int, int] | None:
    """First and last frame of the speech: all that is loud for long enough, and the sounds close to it."""
    edges = np.flatnonzero(np.diff(is_speech.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    runs = edges[edges[:, 1] - edges[:, 0] >= least]
    if not len(runs):
        return None
    first, last = int(runs[0, 0]), int(runs[-1, 1]) - 1
    sounds = np.flatnonzero(is_sound)
    for frame in sounds[sounds < first][::-1].tolist():
        if first - frame > GAP / HOP:
            break
        first = frame
    for frame in sounds[sounds > last].tolist():
        if frame - last > GAP / HOP:
            break
        last = frame
    return first, last
