"""Waveform augmentation: speed, reverberation, noise, bandwidth and gain, all in numpy.

`change_speed` changes the timing, so the clean signal needs the same change; `degrade` keeps the timing, so that a
model can learn to map its output to the clean signal.
"""

from __future__ import annotations

import numpy as np


SPEEDS = (0.85, 1.18)
REVERBERATION_SECONDS = (0.1, 0.5)
SIGNAL_TO_NOISE_DB = (6.0, 35.0)
GAIN_DB = (-14.0, 6.0)


def augment(waveform: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Augments speech: another speed and pitch, reverberation, noise, bandwidth and gain.

    Args:
        waveform: Float32 of shape `(samples,)`.
        sampling_rate: Its rate in Hz.
        rng: Source of all randomness.

    Returns:
        Float32 of shape `(other number of samples,)` in [-1, 1].
    """
    return degrade(change_speed(waveform, rng), sampling_rate, rng)


def vary(waveform: np.ndarray, sampling_rate: int, samples_per_code: int, rng: np.random.Generator) -> np.ndarray:
    """Augments a recording at random: another speed, another offset to the frames of the codec, and every second time
    reverberation, noise, bandwidth and gain, too.

    Args:
        waveform: Float32 of shape `(samples,)`.
        sampling_rate: Its rate in Hz.
        samples_per_code: Samples per code of the codec; fewer samples of silence are put in front.
        rng: Source of all randomness.

    Returns:
        Float32 of shape `(other number of samples,)`.
    """
    varied = change_speed(waveform, rng) if rng.random() < 0.5 else augment(waveform, sampling_rate, rng)
    return np.pad(varied, (int(rng.integers(samples_per_code)), 0))


def change_speed(
    waveform: np.ndarray, rng: np.random.Generator, slowest: float = SPEEDS[0], fastest: float = SPEEDS[1]
) -> np.ndarray:
    """Plays a waveform faster or slower, pitch and timbre included, by a factor drawn from [slowest, fastest].

    Args:
        waveform: Float32 of shape `(samples,)`.
        rng: Source of the factor.

    Returns:
        Float32 of shape `(samples / factor,)`.
    """
    factor = rng.uniform(slowest, fastest)
    samples = max(1, round(len(waveform) / factor))
    # Resampling by padding or cutting the spectrum: exact, and fast enough for clips of some seconds.
    spectrum = np.fft.rfft(waveform, _fast_length(len(waveform)))
    padded = _fast_length(len(waveform))
    target = _fast_length(round(padded / factor))
    resized = np.zeros(target // 2 + 1, dtype=spectrum.dtype)
    kept = min(len(resized), len(spectrum))
    resized[:kept] = spectrum[:kept]
    # The actual factor is padded / target, close to the drawn one: both are lengths with a fast transform.
    changed = np.fft.irfft(resized, target) * (target / padded)
    return _fit(changed, samples).astype(np.float32)


def degrade(waveform: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Adds reverberation, coloured noise, a narrower band and a gain, each with some probability.

    Args:
        waveform: Float32 of shape `(samples,)`.
        sampling_rate: Its rate in Hz.
        rng: Source of all randomness.

    Returns:
        Float32 of shape `(samples,)` in [-1, 1], in time with the input.
    """
    samples = len(waveform)
    # Room and band are filters: both are applied to the spectrum, long enough for the reverberation to die away.
    length = _fast_length(samples + int(REVERBERATION_SECONDS[1] * sampling_rate))
    frequencies = np.fft.rfftfreq(length, 1.0 / sampling_rate)
    spectrum = np.fft.rfft(waveform, length)
    if rng.random() < 0.4:
        spectrum = spectrum * np.fft.rfft(room(sampling_rate, rng.uniform(*REVERBERATION_SECONDS), rng), length)
    if rng.random() < 0.4:
        spectrum = spectrum * _equaliser(frequencies, rng)
    signal = np.fft.irfft(spectrum, length)[:samples]
    if rng.random() < 0.7:
        noise = coloured_noise(frequencies, rng.uniform(0.0, 2.0), rng)[:samples]
        signal = add_noise(signal, noise, rng.uniform(*SIGNAL_TO_NOISE_DB))
    signal = signal * 10 ** (rng.uniform(*GAIN_DB) / 20)
    return np.clip(signal, -1.0, 1.0).astype(np.float32)


def coloured_noise(frequencies: np.ndarray, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Steady noise whose power falls with frequency to the power of the slope: 0 is white, 1 pink, 2 brown.

    Args:
        frequencies: Those of the spectrum in Hz, as `np.fft.rfftfreq` gives them for an even number of samples.
        slope: See above.
        rng: Source of the phases.

    Returns:
        Float of shape `(2 * (len(frequencies) - 1),)`, at any level.
    """
    colour = np.maximum(frequencies, 50.0) ** (-slope / 2)
    return np.fft.irfft(colour * np.exp(2j * np.pi * rng.random(len(frequencies))), 2 * (len(frequencies) - 1))


def add_noise(signal: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    """Adds noise at a signal-to-noise ratio in decibels; both of shape `(samples,)`."""
    # Relative to the level of speech: pauses would make the noise of a hesitant speaker weaker.
    active = signal[np.abs(signal) > 0.05 * np.abs(signal).max(initial=0.0)]
    level = np.sqrt(np.mean(active**2)) if len(active) else 0.0
    ratio = 10 ** (-decibels / 20)
    return signal + noise * (ratio * level / max(float(np.sqrt(np.mean(noise**2))), 1e-9))


def room(sampling_rate: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Impulse response of a room: direct sound and exponentially decaying noise.

    Args:
        sampling_rate: Rate in Hz.
        seconds: Time in which the reverberation decays by 60 dB.
        rng: Source of the reverberation and its level.

    Returns:
        Float of shape `(seconds * sampling_rate,)`; the direct sound has an amplitude of 1.
    """
    time = np.arange(int(seconds * sampling_rate)) / sampling_rate
    tail = rng.standard_normal(len(time)) * np.exp(-6.9 * time / seconds)
    # Reflections arrive some time after the direct sound, here 2 ms.
    tail[: int(0.002 * sampling_rate)] = 0.0
    # Level of the reverberation relative to the direct sound.
    tail *= rng.uniform(0.1, 0.6) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail


def _equaliser(frequencies: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gain at each frequency: a random tilt, and sometimes the band of a telephone."""
    tilt_db = rng.uniform(-3.0, 3.0) * np.log2(np.maximum(frequencies, 100.0) / 1000.0)
    gain = 10 ** (tilt_db / 20)
    if rng.random() < 0.3:
        low, high = rng.uniform(80.0, 300.0), rng.uniform(3400.0, 6000.0)
        # Amplitude falls with 24 dB per octave below the band and 48 dB above it.
        gain = gain / (1 + (low / np.maximum(frequencies, 1.0)) ** 4) / (1 + (frequencies / high) ** 8)
    return gain


def _fast_length(samples: int) -> int:
    """The next multiple of a power of two that keeps transforms fast and wastes little."""
    step = max(2, 1 << max(1, samples.bit_length() - 5))
    return max(step, -(-samples // step) * step)


def _fit(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Cuts or zero-pads at the end to the given length."""
    return np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))
