"""Answers to the packaged evaluation set's questions under the conditions in which people record themselves.

    python benchmarks/listening_conditions.py
    python benchmarks/listening_conditions.py --conditions "2 s of silence" "telephone band" --limit 20
    python benchmarks/listening_conditions.py --page docs/audio.md

Each condition changes all recordings of `tiny_spoken_qa`, and the evaluation harness scores the written answers. What
is random in a condition depends on the seed and on the number of the question only.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers
from common import fill, machine

import ttt_hf
from ttt_hf.data.augmentation import add_noise, change_speed, coloured_noise, room
from ttt_hf.processing.audio import read_audio, resample


BEGIN, END = "<!-- conditions:begin -->", "<!-- conditions:end -->"
BATCH_SIZE = 16
# Voices that speak at the same time in babble.
TALKERS = 5


@dataclass(frozen=True)
class Recording:
    """A recording on its way to the model.

    Attributes:
        samples: Float of shape `(samples,)`.
        rate: Its rate in Hz.
        rng: Source of what is random in a condition.
        others: Recordings of other questions at the same rate, for babble.
    """

    samples: np.ndarray
    rate: int
    rng: np.random.Generator
    others: list[np.ndarray]


Condition = Callable[[Recording], tuple[np.ndarray, int]]


# -- conditions -------------------------------------------------------------------------------------------------------


def surrounded(seconds: float, level_db: float | None) -> Condition:
    """Zeros on both sides, or pink noise throughout with a root mean square of `level_db` below full scale."""

    def apply(recording: Recording) -> tuple[np.ndarray, int]:
        samples = np.pad(recording.samples, round(seconds * recording.rate))
        if level_db is not None:
            noise = _noise(len(samples), 1.0, recording)
            samples = samples + noise * (10 ** (level_db / 20) / np.sqrt(np.mean(noise**2)))
        return samples, recording.rate

    return apply


def noisy(slope: float, decibels: float) -> Condition:
    """Steady noise, see `coloured_noise`."""
    return lambda recording: (
        add_noise(recording.samples, _noise(len(recording.samples), slope, recording), decibels),
        recording.rate,
    )


def babble(decibels: float) -> Condition:
    """Other questions that are asked at the same time."""

    def apply(recording: Recording) -> tuple[np.ndarray, int]:
        chosen = recording.rng.choice(len(recording.others), TALKERS, replace=False)
        # Each talker starts anywhere in the sentence and begins it again.
        noise = sum(
            np.resize(np.roll(recording.others[index], recording.rng.integers(recording.rate)), len(recording.samples))
            for index in chosen
        )
        return add_noise(recording.samples, np.asarray(noise), decibels), recording.rate

    return apply


def band(low: float, high: float) -> Condition:
    """Nothing below `low` Hz and above `high` Hz."""

    def apply(recording: Recording) -> tuple[np.ndarray, int]:
        spectrum = np.fft.rfft(recording.samples)
        frequencies = np.fft.rfftfreq(len(recording.samples), 1 / recording.rate)
        spectrum[(frequencies < low) | (frequencies > high)] = 0
        return np.fft.irfft(spectrum, len(recording.samples)), recording.rate

    return apply


def reverberant(seconds: float) -> Condition:
    """A room whose reverberation decays by 60 dB in this time."""
    return lambda recording: (
        np.convolve(recording.samples, room(recording.rate, seconds, recording.rng)),
        recording.rate,
    )


def hum(decibels: float) -> Condition:
    """The hum of the mains, with harmonics to 500 Hz, in two seconds of nothing else on both sides, too."""

    def apply(recording: Recording) -> tuple[np.ndarray, int]:
        samples = np.pad(recording.samples, 2 * recording.rate)
        time = np.arange(len(samples)) / recording.rate
        return add_noise(samples, sum(np.sin(2 * np.pi * 50 * k * time) / k for k in range(1, 11)), decibels), (
            recording.rate
        )

    return apply


def clicks(recording: Recording) -> tuple[np.ndarray, int]:
    """Two seconds of silence on both sides, in each of which something clicks twice, as a button does."""
    margin = 2 * recording.rate
    samples = np.pad(recording.samples, margin)
    for start in (0, len(samples) - margin):
        for place in recording.rng.integers(recording.rate // 10, margin - recording.rate // 2, 2):
            samples[start + place : start + place + recording.rate // 500] += 0.5
    return samples, recording.rate


def scaled(decibels: float) -> Condition:
    """A gain, with clipping at full scale."""
    gain = 10 ** (decibels / 20)
    return lambda recording: (np.clip(gain * recording.samples, -1, 1), recording.rate)


def at_rate(rate: int) -> Condition:
    """Another sampling rate."""
    return lambda recording: (resample(recording.samples, recording.rate, rate), rate)


def at_speed(factor: float) -> Condition:
    """Played faster or slower, pitch included."""
    return lambda recording: (change_speed(recording.samples, recording.rng, factor, factor), recording.rate)


def with_constant(offset: float) -> Condition:
    """A constant, as of a sound card."""
    return lambda recording: (recording.samples + offset, recording.rate)


CONDITIONS: dict[str, Condition] = {
    "as recorded": lambda recording: (recording.samples, recording.rate),
    "1 s of silence on both sides": surrounded(1, None),
    "2 s of silence on both sides": surrounded(2, None),
    "2 s of faint noise on both sides (-60 dB)": surrounded(2, -60),
    "2 s of noise on both sides (-45 dB)": surrounded(2, -45),
    "2 s of silence with clicks": clicks,
    "2 s of hum on both sides, 20 dB": hum(20),
    "level -20 dB": scaled(-20),
    "level -40 dB": scaled(-40),
    "clipped by 12 dB": scaled(12),
    "constant 0.1": with_constant(0.1),
    "8 kHz": at_rate(8000),
    "48 kHz": at_rate(48000),
    "telephone band, 300 to 3400 Hz": band(300, 3400),
    "nothing below 300 Hz": band(300, math.inf),
    "nothing above 3400 Hz": band(0, 3400),
    "babble, 10 dB": babble(10),
    "white noise, 20 dB": noisy(0, 20),
    "white noise, 10 dB": noisy(0, 10),
    "pink noise, 10 dB": noisy(1, 10),
    "reverberation of 0.2 s": reverberant(0.2),
    "reverberation of 0.5 s": reverberant(0.5),
    "speed 0.8": at_speed(0.8),
    "speed 1.25": at_speed(1.25),
}


def _noise(samples: int, slope: float, recording: Recording) -> np.ndarray:
    frequencies = np.fft.rfftfreq(samples + samples % 2, 1 / recording.rate)
    return coloured_noise(frequencies, slope, recording.rng)[:samples]


# -- scores -----------------------------------------------------------------------------------------------------------


def interval(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, "Probable inference, the law of succession, and statistical inference",
    1927), which stays sensible at 0 and 100 %.
    """
    z = 1.96
    share, spread = right / total, z**2 / total
    centre = share + spread / 2
    reach = z * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return (centre - reach) / (1 + spread), (centre + reach) / (1 + spread)


def read_questions(limit: int | None) -> list[dict[str, Any]]:
    """Rows of the packaged questions, with `samples` and `rate`."""
    folder = Path(str(files("ttt_hf"))) / "evaluation" / "tiny_set"
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:limit]
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row["samples"], row["rate"] = read_audio(folder / row["audio"])
    return rows


def score(model: str, rows: list[dict[str, Any]], condition: Condition, seed: int, folder: Path) -> dict[str, Any]:
    """Number of right answers to questions under a condition.

    Args:
        model: Name or folder of the model.
        rows: See `read_questions`; at least six of the same rate.
        condition: What happens to their recordings.
        seed: Seed of the condition.
        folder: For the recordings.
    """
    written = []
    for number, row in enumerate(rows):
        others = [other["samples"] for other in rows if other is not row]
        rng = np.random.default_rng([seed, number])
        samples, rate = condition(Recording(row["samples"], row["rate"], rng, others))
        # As floats, so that nothing but the condition clips.
        soundfile.write(folder / f"{number}.wav", samples.astype(np.float32), rate, "FLOAT")
        columns = {key: row[key] for key in ("id", "question", "answer")}
        written.append({**columns, "audio": f"{number}.wav", "seconds": len(samples) / rate})
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written), encoding="utf-8")
    own = {"path": str(folder / "questions.jsonl"), "expected": None, "output": "text"}
    results = ttt_hf.evaluate(model, "tiny_spoken_qa", overrides=own, batch_size=BATCH_SIZE)["tiny_spoken_qa"]
    right, total = round(results["metrics"]["accuracy"]["value"] * len(rows)), len(rows)
    return {"right": right, "n": total, "interval": interval(right, total), "ended": results["finish_reasons"]}


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    lines = ["| recordings | right answers | 95 % interval |", "|---|---|---|"]
    for name, of in report["conditions"].items():
        low, high = of["interval"]
        lines.append(f"| {name} | {100 * of['right'] / of['n']:.0f} % | {100 * low:.0f} to {100 * high:.0f} % |")
    count = next(iter(report["conditions"].values()))["n"]
    lines.append(f"\nn = {count} questions each, written answers, intervals of Wilson. `{report['command']}`")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ttt-tiny", help="name or folder of the model (default: %(default)s)")
    parser.add_argument(
        "--conditions", nargs="+", metavar="WORDS", help="only those whose names begin with one of these"
    )
    parser.add_argument("--limit", type=int, help="takes the first questions only, at least six (default: all 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is random in the conditions (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--page", type=Path, help=f"Markdown file in which to fill the table in, at {BEGIN}")
    args = parser.parse_args()
    if args.limit is not None and args.limit <= TALKERS:
        parser.error(f"--limit must be at least {TALKERS + 1}: so many talk at once in babble")
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    rows = read_questions(args.limit)
    chosen = tuple(args.conditions or [""])
    report: dict[str, Any] = {
        "command": "python benchmarks/listening_conditions.py",
        "machine": machine("cpu"),
        "conditions": {},
    }
    for name, condition in CONDITIONS.items():
        if name.startswith(chosen):
            with tempfile.TemporaryDirectory() as folder:
                report["conditions"][name] = score(args.model, rows, condition, args.seed, Path(folder))
    if not report["conditions"]:
        parser.error(f"there are these conditions: {', '.join(CONDITIONS)}")
    print(json.dumps(report, indent=2) if args.json else table(report))
    if args.page:
        fill(args.page, table(report), (BEGIN, END))


if __name__ == "__main__":
    main()
