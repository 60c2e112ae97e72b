"""Turn detection by level, on a real recording with noise around it."""

from pathlib import Path

import numpy as np
import pytest

from ttt_hf.processing import load_audio
from ttt_hf.serving.api.turns import InputBuffer, TurnDetector


RATE = 24_000
QUESTION = Path(__file__).resolve().parents[3] / "examples" / "question.wav"


def recording(noise_db: float, seconds: float = 1.0, turns: int = 1) -> tuple[np.ndarray, int]:
    """Noise with a question in it, and the length of the question in samples."""
    speech = load_audio(str(QUESTION), None, RATE)
    silence = np.zeros(round(seconds * RATE), dtype=np.float32)
    samples = np.concatenate([silence, *[speech, silence] * turns])
    noise = np.random.default_rng(0).normal(size=len(samples)) * 10 ** (noise_db / 20)
    return (samples + noise).astype(np.float32), len(speech)


@pytest.mark.parametrize("noise_db", [-120.0, -60.0, -40.0])
@pytest.mark.parametrize("piece", [160, 1000, 1_000_000])
def test_a_turn_begins_and_ends_with_the_speech(noise_db: float, piece: int) -> None:
    samples, length = recording(noise_db)
    detector = TurnDetector(RATE, silence_seconds=0.4)
    events = [
        event for start in range(0, len(samples), piece) for event in detector.push(samples[start : start + piece])
    ]
    assert [event.kind for event in events] == ["started", "stopped"]
    assert events[0].sample / RATE == pytest.approx(1.0, abs=0.25)
    assert events[1].sample / RATE == pytest.approx(1.0 + length / RATE, abs=0.3)


def test_two_turns_with_a_pause_between_them() -> None:
    samples, _ = recording(-60.0, turns=2)
    kinds = [event.kind for event in TurnDetector(RATE).push(samples)]
    assert kinds == ["started", "stopped", "started", "stopped"]


def test_a_long_enough_pause_is_needed() -> None:
    samples, _ = recording(-60.0, turns=2)
    assert [event.kind for event in TurnDetector(RATE, silence_seconds=2.0).push(samples)] == ["started"]


def test_noise_alone_and_clicks_are_no_speech() -> None:
    noise = np.random.default_rng(0).normal(size=10 * RATE).astype(np.float32)
    assert TurnDetector(RATE).push(noise * 0.0005) == []
    clicks = np.zeros(5 * RATE, dtype=np.float32)
    clicks[:: RATE // 2] = 0.9
    assert TurnDetector(RATE).push(clicks) == []
    # Noise that sets in is followed: it is no turn that never ends.
    events = TurnDetector(RATE).push(np.concatenate([np.zeros(RATE, dtype=np.float32), noise * 0.02]))
    assert [event.kind for event in events] in ([], ["started", "stopped"])


def test_the_buffer_keeps_what_was_not_taken() -> None:
    buffer = InputBuffer(1000)
    for start in range(0, 1000, 100):
        buffer.append(np.arange(start, start + 100, dtype=np.float32))
    assert buffer.seconds == 1.0
    buffer.drop(250)
    assert buffer.seconds == 0.75
    np.testing.assert_array_equal(buffer.take(400), np.arange(400, 1000))
    assert buffer.seconds == 0.0 and len(buffer.take()) == 0
    buffer.append(np.ones(10, dtype=np.float32))
    assert buffer.end == 1010 and len(buffer.take(1005)) == 5
