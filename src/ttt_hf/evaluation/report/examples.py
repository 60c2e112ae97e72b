"""The samples that a report shows: the best, the worst, and some drawn at random."""

from __future__ import annotations

import base64
import difflib
import io
import logging
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from ..task_samples import load_samples
from .run_data import ReportedSample, TaskRun


logger = logging.getLogger(__name__)

# Keeps the page small enough for mail; larger recordings are not embedded.
MAX_EMBEDDED_BYTES = 2 << 20
MEDIA_TYPES = {".flac": "audio/flac", ".wav": "audio/wav", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
# A Chinese, Japanese or Korean character, or a run of anything else up to a space or such a character.
WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+"
)


@dataclass(frozen=True)
class Difference:
    """Consecutive words of a transcript.

    Args:
        kind: "same", "missing" or "added", relative to the reference.
    """

    kind: str
    words: str


@dataclass(frozen=True)
class ExampleGroup:
    """Samples that are shown together, under the title "Best", "Worst" or "Random"."""

    title: str
    samples: tuple[ReportedSample, ...]


def choose_examples(run: TaskRun, count: int = 3, seed: int = 0) -> list[ExampleGroup]:
    """Chooses samples to show, ranked by the task's main metric; none is shown twice.

    Among equals, the longer reference comes first; `seed` decides the rest of the order and the random draw.

    Args:
        count: Maximum size of each group.

    Returns:
        Worst, best and random samples; empty groups are left out. None of the worst is without a fault.
    """
    metric = run.main_metric
    if metric is None:
        return []
    higher_is_better = run.results["metrics"][metric]["higher_is_better"]
    ranked = [sample for sample in run.samples if metric in sample.values]
    draw = random.Random(seed)
    # 1. Rank by badness. Sorting is stable, so that the shuffled order decides among equals.
    draw.shuffle(ranked)
    ranked.sort(key=lambda sample: _badness(sample, metric, higher_is_better), reverse=True)
    # With few samples, each group still gets a third.
    count = min(count, max(1, len(ranked) // 3))
    # 2. A reply without a fault is not among the worst, however few have one. The best are taken from what the worst
    # leave, so that none is shown twice.
    perfect = _perfect_value(run.results["metrics"][metric])
    worst = [sample for sample in ranked if not _is_perfect(sample, metric, perfect)][:count]
    rest = [sample for sample in ranked if sample not in worst]
    best = sorted(rest, key=lambda sample: (_badness(sample, metric, higher_is_better)[0], -sample.values[metric][1]))[
        :count
    ]
    chosen = {sample.id for sample in (*worst, *best)}
    # 3. Draw from the remaining samples; `seed` makes it reproducible.
    others = [sample for sample in ranked if sample.id not in chosen]
    groups = {"Worst": worst, "Best": best, "Random": draw.sample(others, min(count, len(others)))}
    return [ExampleGroup(title, tuple(samples)) for title, samples in groups.items() if samples]


def embedded_audio(path: Path) -> str | None:
    """A FLAC, WAV, OGG or MP3 file as a `data:` URL; none for files that are too large or of another type."""
    media_type = MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None or path.stat().st_size > MAX_EMBEDDED_BYTES:
        return None
    return _address(media_type, path.read_bytes())


def question_recordings(run: TaskRun, samples: Sequence[ReportedSample]) -> dict[str, str]:
    """The audio of the questions, from the data of the task if it is still there.

    Returns:
        Id -> the recording as FLAC in a `data:` URL. Recordings that are missing, too large, or belong to other
        references by now are left out.
    """
    try:
        data = load_samples(run.task)
    # A report can be made on another machine, without the data or the packages that read them, which raise anything.
    except Exception as error:
        logger.info("the report of %s is without the recordings of the questions: %s", run.name, error)
        return {}
    indices = {key: index for index, key in enumerate(data.ids)}
    recordings = {}
    for sample in samples:
        if sample.id not in indices:
            continue
        question, _ = data[indices[sample.id]]
        # The data may have changed since the run, and another sample may have this id now.
        if question.audio is None or question.references != sample.references:
            continue
        content = io.BytesIO()
        soundfile.write(content, question.audio, question.sampling_rate, format="FLAC", subtype="PCM_16")
        # Only the encoded size tells, which depends on the recording.
        if len(content.getvalue()) <= MAX_EMBEDDED_BYTES:
            recordings[sample.id] = _address("audio/flac", content.getvalue())
    return recordings


def differences(reference: str, hypothesis: str) -> list[Difference]:
    """Missing and added words of a hypothesis, by character where words have no spaces.

    Ignores case and punctuation. For reading only: scorers align by themselves.

    Returns:
        The text in order; empty if nothing differs.
    """
    expected, found = WORDS.findall(reference), WORDS.findall(hypothesis)
    # False: difflib would otherwise ignore words that are frequent in a text of 200 or more.
    matcher = difflib.SequenceMatcher(
        None, [_plain(word) for word in expected], [_plain(word) for word in found], False
    )
    parts = []
    for kind, start, end, first, last in matcher.get_opcodes():
        # As the model spelled it: case and punctuation are not compared.
        if kind == "equal":
            parts.append(Difference("same", " ".join(found[first:last])))
            continue
        # A replacement is shown as both, first what is missing.
        if end > start:
            parts.append(Difference("missing", " ".join(expected[start:end])))
        if last > first:
            parts.append(Difference("added", " ".join(found[first:last])))
    return parts if any(part.kind != "same" for part in parts) else []


def _plain(word: str) -> str:
    # A word of punctuation alone stays as it is: empty texts would all be equal.
    return "".join(letter for letter in word.casefold() if letter.isalnum()) or word


def _address(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def _perfect_value(metric: Mapping[str, Any]) -> float:
    """No errors, or the full score: 1, or that of a scale such as `of 5`."""
    if not metric["higher_is_better"]:
        return 0.0
    scale = re.fullmatch(r"of (\d+)", metric["unit"])
    return float(scale[1]) if scale else 1.0


def _is_perfect(sample: ReportedSample, metric: str, perfect: float) -> bool:
    numerator, denominator = sample.values[metric]
    # A failed reply to an empty reference has no errors, either.
    return sample.finish_reason != "error" and numerator == perfect * denominator


def _badness(sample: ReportedSample, metric: str, higher_is_better: bool) -> tuple[float, float]:
    numerator, denominator = sample.values[metric]
    # Words against an empty reference are the worst there is.
    rate = numerator / denominator if denominator else float("inf") if numerator else 0.0
    # The denominator of an error rate is the reference's length, which decides among equals.
    return (-rate if higher_is_better else rate), denominator
