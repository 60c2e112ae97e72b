"""A small task on disk and a model that says what it is told, for the tests of the stages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ttt_hf.evaluation.concepts import Judgement, Record, Response, Sample, Task
from ttt_hf.evaluation.tasks import load_task


WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def tone(seconds: float, pitch: float = 440.0, rate: int = 16000) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate).astype(np.float32)


def write_task(folder: Path, count: int = 10, **changes: Any) -> Path:
    """A task of recordings of different lengths, in each of which a number word is said to be heard."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        path = folder / "audio" / f"{number}.wav"
        soundfile.write(path, tone(0.2 + 0.1 * (number * 7 % count), 200 + 20 * number), 16000)
        rows.append({"id": f"s{number}", "audio": f"audio/{number}.wav", "text": WORDS[number % len(WORDS)]})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "name": "numbers",
        "version": 1,
        "source": {"path": "./data.jsonl", "columns": {"id": "id", "audio": "audio", "references": "text"}},
        "prompt": "asr",
        "output": "text",
        "scorer": "wer",
        **changes,
    }
    path = folder / "numbers.yaml"
    path.write_text(json.dumps(task))
    return path


def make_task(folder: Path, count: int = 10, **changes: Any) -> Task:
    return load_task(write_task(folder, count, **changes))


@dataclass
class ScriptedModel:
    """Says the right thing but where it is told otherwise; stops the world after so many batches."""

    replies: Mapping[str, Response] = field(default_factory=dict)
    name: str = "scripted"
    speaks: bool = False
    stop_after: int | None = None
    batches: list[list[str]] = field(default_factory=list)

    @property
    def description(self) -> dict[str, Any]:
        return {"name": self.name, "revision": "1"}

    @property
    def asked(self) -> list[str]:
        return [sample for batch in self.batches for sample in batch]

    def respond(self, samples: Sequence[Sample], task: Task) -> list[Response]:
        if self.stop_after is not None and len(self.batches) >= self.stop_after:
            raise KeyboardInterrupt
        self.batches.append([sample.id for sample in samples])
        return [self.replies.get(sample.id, self._right(sample)) for sample in samples]

    def _right(self, sample: Sample) -> Response:
        audio = tone(0.5 + len(sample.id) / 10) if self.speaks else None
        return Response(sample.references[0], audio=audio, tokens=3, forward_passes=2, seconds=0.25)


@dataclass
class ScriptedTranscriber:
    """Hears the same words in everything."""

    words: str = "one"
    heard: int = 0
    stop_after: int | None = None

    @property
    def description(self) -> dict[str, Any]:
        return {"model": "scripted", "words": self.words}

    def transcribe_all(self, recordings: Sequence[tuple[np.ndarray, int]]) -> Iterator[str]:
        for waveform, _ in recordings:
            if self.stop_after is not None and self.heard >= self.stop_after:
                raise KeyboardInterrupt
            assert np.abs(waveform).max() > 0.1
            self.heard += 1
            yield self.words


@dataclass
class ScriptedJudge:
    """Says correct, or what it is told of a sample; breaks down after so many."""

    answers: dict[str, Judgement] | None = None
    stop_after: int | None = None
    asked: int = 0

    @property
    def description(self) -> dict[str, Any]:
        return {"model": "scripted"}

    def ask(self, records: Sequence[Record]) -> Iterator[tuple[str, tuple[Judgement, ...]]]:
        for record in records:
            if self.asked == self.stop_after:
                raise ConnectionError("The judge cannot be reached.")
            self.asked += 1
            yield record.id, ((self.answers or {}).get(record.id, Judgement(1.0, "correct", None, 20, 1)),)
