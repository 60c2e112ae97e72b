"""The folder of one evaluated task: names of its files, and what is recorded of each sample, read and joined.

settings.json       what was asked of what: task, model, limit, later transcriber and judge
predictions.jsonl   a row for each reply
audio/              what the model said, FLAC
transcripts.jsonl   what a transcriber heard in it
judgements.jsonl    what a judge thought of it
scores.jsonl        what each sample adds to the metrics
results.json        the metrics
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from .concepts import DatasetSource, Judgement, Record, Task
from .store import JsonLine, digest, latest_lines, read_lines, write_json


SCHEMA_VERSION = 2


@dataclass(frozen=True)
class TaskFolder:
    """The files of one evaluated task.

    Args:
        path: Where they are.
    """

    path: Path

    @property
    def settings(self) -> Path:
        """Settings of the run."""
        return self.path / "settings.json"

    @property
    def predictions(self) -> Path:
        """Replies."""
        return self.path / "predictions.jsonl"

    @property
    def transcripts(self) -> Path:
        """Transcripts of spoken replies."""
        return self.path / "transcripts.jsonl"

    @property
    def judgements(self) -> Path:
        """Answers of a judge."""
        return self.path / "judgements.jsonl"

    @property
    def scores(self) -> Path:
        """What each sample adds to the metrics."""
        return self.path / "scores.jsonl"

    @property
    def results(self) -> Path:
        """The metrics."""
        return self.path / "results.json"

    def read_settings(self) -> dict[str, Any]:
        """Reads the settings of the run.

        Returns:
            Content of `settings.json`.

        Raises:
            FileNotFoundError: If this is not the folder of an evaluated task.
            ValueError: If the file is damaged or of another version of this package.
        """
        return _read_json(self.settings, f"{self.path} is not the folder of an evaluated task")

    def read_results(self) -> dict[str, Any]:
        """Reads the results.

        Returns:
            Content of `results.json`.

        Raises:
            FileNotFoundError: If it has not been scored.
            ValueError: If the file is damaged or of another version of this package.
        """
        return _read_json(self.results, f"{self.path} has no results yet")

    def update_settings(self, **changes: Any) -> dict[str, Any]:
        """Changes settings of the run.

        Args:
            changes: New values.

        Returns:
            All settings.
        """
        settings = {**self.read_settings(), **changes}
        write_json(self.settings, settings)
        return settings

    def replies(self) -> list[JsonLine]:
        """Reads the replies to the samples of the run, in the order of the data.

        Returns:
            Rows of `predictions.jsonl`; samples that are not answered yet are missing.
        """
        settings = self.read_settings()
        rows = latest_lines(self.predictions, settings["fingerprint"])
        return [rows[sample] for sample in settings["samples"] if sample in rows]

    def records(self, task: Task | None = None) -> list[Record]:
        """Reads all that scorers may look at.

        Args:
            task: The task as it is scored; as it was when the model was asked by default.

        Returns:
            A record for each reply, in the order of the data.

        Raises:
            ValueError: If spoken replies have not been transcribed: silence and that are not the same.
        """
        settings = self.read_settings()
        task = task or task_from(settings["task"])
        replies = self.replies()
        transcripts = self.transcripts_of(replies, settings["transcriber"])
        missing = sum(row["audio"] is not None and row["id"] not in transcripts for row in replies)
        if task.output == "speech" and missing:
            raise ValueError(
                f"{missing} of {len(replies)} replies in {self.path} are not transcribed yet: run `ttt-hf eval "
                f"transcribe {self.path}`; the replies are kept."
            )
        records = [
            Record(
                id=row["id"],
                question=row["question"],
                references=tuple(row["references"]),
                text=row["text"],
                transcript=transcripts.get(row["id"], "") if task.output == "speech" else None,
                finish_reason=row["finish_reason"],
                language=task.language,
            )
            for row in replies
        ]
        judgements = self.judgements_of(records, settings["judge"])
        return [
            replace(record, judgements=judgements[record.id]) if record.id in judgements else record
            for record in records
        ]

    def transcripts_of(self, replies: list[JsonLine], transcriber: Mapping[str, Any] | None) -> dict[str, str]:
        """Reads the transcripts that were made of these replies by this transcriber.

        Args:
            replies: Rows of `predictions.jsonl`.
            transcriber: Its description; without one there are no transcripts.

        Returns:
            Transcripts by id; replies without one are missing.
        """
        if transcriber is None:
            return {}
        wanted = {row["id"]: transcript_fingerprint(row, transcriber) for row in replies}
        return {key: row["text"] for key, row in _matching(self.transcripts, wanted).items()}

    def judgements_of(
        self, records: list[Record], judge: Mapping[str, Any] | None
    ) -> dict[str, tuple[Judgement, ...]]:
        """Reads the answers that this judge gave to these records.

        Args:
            records: What it was asked about.
            judge: Its description; without one there are no answers.

        Returns:
            Answers by id; records that were not judged are missing.
        """
        if judge is None:
            return {}
        wanted = {record.id: judgement_fingerprint(record, judge) for record in records}
        return {
            key: tuple(Judgement(**answer) for answer in row["judgements"])
            for key, row in _matching(self.judgements, wanted).items()
        }


def transcript_fingerprint(reply: JsonLine, transcriber: Mapping[str, Any]) -> str:
    """What decides a transcript: the sound and who listens to it."""
    return digest({"audio": reply["audio_sha256"], "transcriber": transcriber})


def judgement_fingerprint(record: Record, judge: Mapping[str, Any]) -> str:
    """What decides a judgement: all that the judge is shown, and who it is."""
    shown = {**_shallow(record), "judgements": (), "references": list(record.references)}
    return digest({"record": shown, "judge": judge})


def task_folders(folder: Path) -> list[TaskFolder]:
    """Finds the evaluated tasks in a folder.

    Args:
        folder: The folder of one task, or of a run with a folder for each task.

    Returns:
        The tasks, ordered by name.

    Raises:
        FileNotFoundError: If there are none.
    """
    if TaskFolder(folder).settings.is_file():
        return [TaskFolder(folder)]
    found = [TaskFolder(path) for path in sorted(folder.glob("*")) if TaskFolder(path).settings.is_file()]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no evaluation, nor does any folder in it: name what `ttt-hf eval run --out` wrote."
        )
    return found


def task_from(content: Mapping[str, Any]) -> Task:
    """A task out of `settings.json`.

    Args:
        content: As `dataclasses.asdict` gives it.

    Returns:
        The task as it was when the model was asked.
    """
    return Task(**{**content, "source": DatasetSource(**content["source"])})


def task_content(task: Task) -> dict[str, Any]:
    """A task as JSON can hold it.

    Args:
        task: Any.

    Returns:
        What `task_from` reads.
    """
    return json.loads(json.dumps(asdict(task)))


def _matching(path: Path, wanted: Mapping[str, str]) -> dict[str, JsonLine]:
    """The latest rows whose fingerprints are the wanted ones of their ids."""
    return {row["id"]: row for row in read_lines(path) if wanted.get(row["id"]) == row["fingerprint"]}


def _shallow(record: Record) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _read_json(path: Path, missing: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{missing}, it lacks {path.name}: run `ttt-hf eval run` first.") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and run `ttt-hf eval run` again.") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema_version {version!r}, and this version of ttt-hf reads {SCHEMA_VERSION}: run the "
            "evaluation again into another folder."
        )
    return content
