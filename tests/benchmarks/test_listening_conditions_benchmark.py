"""The measure of recordings as people make them: what each condition does, its intervals, and a score."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


ROOT = Path(__file__).resolve().parents[2]
RATE = 16000


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as where a script is run
    import listening_conditions

    yield listening_conditions
    sys.path.remove(str(ROOT / "benchmarks"))


def apply(benchmark: ModuleType, name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """A second of noise as speech, and what a condition makes of it."""
    rng = np.random.default_rng(5)
    clips = [(0.1 * rng.standard_normal(RATE)).astype(np.float32) for _ in range(6)]
    recording = benchmark.Recording(clips[0], RATE, np.random.default_rng(0), clips[1:])
    return clips[0], *benchmark.CONDITIONS[name](recording)


def test_conditions_depend_on_the_seed_alone(benchmark: ModuleType) -> None:
    for name in benchmark.CONDITIONS:
        clip, changed, rate = apply(benchmark, name)
        assert np.isfinite(changed).all() and changed.ndim == 1
        assert len(changed) / rate >= 0.79 * len(clip) / RATE
        np.testing.assert_array_equal(changed, apply(benchmark, name)[1])


def level(samples: np.ndarray) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))))


def test_what_they_do(benchmark: ModuleType) -> None:
    clip, changed, _ = apply(benchmark, "2 s of silence on both sides")
    np.testing.assert_array_equal(changed, np.pad(clip, 2 * RATE))
    clip, changed, _ = apply(benchmark, "2 s of noise on both sides (-45 dB)")
    assert level(changed[: 2 * RATE]) == pytest.approx(-45, abs=1)
    clip, changed, _ = apply(benchmark, "level -40 dB")
    assert level(changed) == pytest.approx(level(clip) - 40, abs=0.01)
    for name in ("babble, 10 dB", "white noise, 10 dB", "pink noise, 10 dB"):
        clip, changed, _ = apply(benchmark, name)
        assert level(changed - clip) == pytest.approx(level(clip) - 10, abs=1)
    clip, changed, _ = apply(benchmark, "telephone band, 300 to 3400 Hz")
    spectrum, frequencies = np.abs(np.fft.rfft(changed)), np.fft.rfftfreq(len(changed), 1 / RATE)
    outside = (frequencies < 300) | (frequencies > 3400)
    assert spectrum[outside].max() < 1e-3 * spectrum.max()


def test_intervals(benchmark: ModuleType) -> None:
    # The values of R's binom.confint(..., methods = "wilson").
    assert benchmark.interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert benchmark.interval(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    assert benchmark.interval(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


@pytest.mark.slow
def test_a_score(benchmark: ModuleType, tmp_path: Path) -> None:
    rows = benchmark.read_questions(6)
    condition = benchmark.CONDITIONS["2 s of silence on both sides"]
    found = benchmark.score("ttt-tiny", rows, condition, 0, tmp_path)
    assert found["n"] == 6 and found["right"] >= 5
    report = {"command": "x", "conditions": {"as recorded": found}}
    assert benchmark.table(report).splitlines()[2].startswith("| as recorded | ")
