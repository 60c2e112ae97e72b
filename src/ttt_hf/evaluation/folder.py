"""The folder of one evaluated task: names of its files, and the records of each sample, read and joined.

settings.json       task, model, limit, and later transcriber and judge
predictions.jsonl   one line per reply
audio/              speech of the replies, FLAC
transcripts.jsonl   transcripts of that speech
judgements.jsonl    answers of a judge
scores.jsonl        per-sample scores
results.json        the metrics
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from .concepts import DatasetSource, Judgement, Record, Task
from .layouts import check_layout, parse_json
from .redaction import without_secrets
from .scoring.scorers import SCORERS
from .store import JsonLine, digest, latest_lines, read_lines, write_json


SCHEMA_VERSION = 2


@dataclass(frozen=True)
class TaskFolder:
    """The files of one evaluated task."""

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
        """Per-sample scores."""
        return self.path / "scores.jsonl"

    @property
    def results(self) -> Path:
        """The metrics."""
        return self.path / "results.json"

    def read_settings(self) -> dict[str, Any]:
        """Reads `settings.json`."""
        return _read_json(self.settings, f"{self.path} is not the folder of an evaluated task")

    def read_results(self) -> dict[str, Any]:
        """Reads `results.json`, without the secrets that older versions have written there: reports are shared."""
        return without_secrets(_read_json(self.results, f"{self.path} has no results yet"))

    def update_settings(self, **changes: Any) -> dict[str, Any]:
        """Changes some settings of the run, and returns all of them."""
        settings = {**self.read_settings(), **changes}
        write_json(self.settings, settings)
        return settings

    def check_version(self, task: Task) -> None:
        """Checks that this folder does not hold replies to another version of a task."""
        if not self.settings.is_file():
            return
        # The name, too: a folder may have been renamed, or be that of another task file.
        recorded = self.read_settings()["task"]
        if (recorded["name"], recorded["version"]) != (task.name, task.version):
            raise ValueError(
                f"{self.path} holds replies to version {recorded['version']} of task {recorded['name']}, and this is "
                f"version {task.version} of {task.name}: their numbers cannot be compared. Run it into another folder "
                "(--out); what is there stays."
            )

    def replies(self) -> list[JsonLine]:
        """Reads the replies to the samples of the run, in the order of the data.

        Returns:
            Lines of `predictions.jsonl`; samples that are not answered yet are missing.
        """
        settings = self.read_settings()
        # The file may hold replies of other models and settings, which the fingerprint filters out.
        lines = latest_lines(self.predictions, settings["fingerprint"])
        return [lines[sample] for sample in settings["samples"] if sample in lines]

    def records(self, task: Task | None = None) -> list[Record]:
        """Reads the data that scorers may use.

        Args:
            task: The task as it is scored; by default as it was when the model was asked.

        Returns:
            One record per reply, in the order of the data.
        """
        settings = self.read_settings()
        task = task or task_from(settings["task"])
        replies = self.replies()
        transcripts = self.transcripts_of(replies, settings["transcriber"])
        # A reply without audio needs no transcript: it was silent, which scores as an empty one.
        missing = sum(reply["audio"] is not None and reply["id"] not in transcripts for reply in replies)
        if task.output == "speech" and missing:
            raise ValueError(
                f"{missing} of {len(replies)} replies in {self.path} are not transcribed yet: run `ttt-hf eval "
                f"transcribe {self.path}`; the replies are kept."
            )
        records = [
            Record(
                id=reply["id"],
                question=reply["question"],
                references=tuple(reply["references"]),
                text=reply["text"],
                transcript=transcripts.get(reply["id"], "") if task.output == "speech" else None,
                finish_reason=reply["finish_reason"],
                language=task.language,
            )
            for reply in replies
        ]
        # Judgements are looked up by all else that a record holds, so that they are joined last.
        judgements = self.judgements_of(records, settings["judge"])
        return [
            replace(record, judgements=judgements[record.id]) if record.id in judgements else record
            for record in records
        ]

    def transcripts_of(self, replies: list[JsonLine], transcriber: Mapping[str, Any] | None) -> dict[str, str]:
        """Reads the transcripts of these replies by this transcriber.

        Args:
            replies: Lines of `predictions.jsonl`.
            transcriber: Its description; without one there are no transcripts.

        Returns:
            Transcripts by id; replies without one are missing.
        """
        if transcriber is None:
            return {}
        # Each line by its own fingerprint: transcripts of replies that stayed the same are used again.
        wanted = {reply["id"]: transcript_fingerprint(reply, transcriber) for reply in replies}
        return {key: line["text"] for key, line in _matching(self.transcripts, wanted).items()}

    def judgements_of(
        self, records: list[Record], judge: Mapping[str, Any] | None
    ) -> dict[str, tuple[Judgement, ...]]:
        """Reads the answers of this judge about these records.

        Args:
            records: Records without judgements.
            judge: Its description; without one there are no answers.

        Returns:
            Answers by id; records that were not judged are missing.
        """
        if judge is None:
            return {}
        wanted = {record.id: judgement_fingerprint(record, judge) for record in records}
        return {
            key: tuple(Judgement(**_known(Judgement, answer)) for answer in line["judgements"])
            for key, line in _matching(self.judgements, wanted).items()
        }


def transcript_fingerprint(reply: JsonLine, transcriber: Mapping[str, Any]) -> str:
    """Hashes all that a transcript depends on: the audio and the transcriber."""
    # By the hash of the audio and not by the run: the same speech is not transcribed twice.
    return digest({"audio": reply["audio_sha256"], "transcriber": transcriber})


def judgement_fingerprint(record: Record, judge: Mapping[str, Any]) -> str:
    """Hashes all that a judgement depends on: what the judge is shown, and the judge."""
    # Without judgements: the fingerprint is the same before and after the judge was asked.
    shown = {**_shallow(record), "judgements": (), "references": list(record.references)}
    return digest({"record": shown, "judge": judge})


def task_folders(folder: Path) -> list[TaskFolder]:
    """Finds the evaluated tasks in a folder.

    Args:
        folder: The folder of one task, or of a run with a folder for each task.

    Returns:
        The tasks, ordered by name.
    """
    # Settings are the first file of a task, so that unfinished ones are found, too.
    if TaskFolder(folder).settings.is_file():
        return [TaskFolder(folder)]
    found = [TaskFolder(path) for path in sorted(folder.glob("*")) if TaskFolder(path).settings.is_file()]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no evaluation, nor does any folder in it: name what `ttt-hf eval run --out` wrote."
        )
    return found


def scored_folders(folder: Path) -> list[TaskFolder]:
    """Finds the tasks in a folder that have results; see [`task_folders`].

    Returns:
        The tasks, ordered by name; if none has results, all, so that reading the first raises the error that says so.
    """
    tasks = task_folders(folder)
    # Without a judge or a transcriber, some tasks of a run may be left unscored for now.
    return [task for task in tasks if task.results.is_file()] or tasks


def task_from(content: Mapping[str, Any]) -> Task:
    """Reads a task as `settings.json` holds it: as it was when the model was asked."""
    return Task(**{**_known(Task, content), "source": DatasetSource(**_known(DatasetSource, content["source"]))})


def task_content(task: Task) -> dict[str, Any]:
    """Writes a task as JSON can hold it; `task_from` reads it."""
    # Through JSON, so that tuples become lists as they do when the file is read back.
    return json.loads(json.dumps(asdict(task)))


def _known(kind: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a dataclass; keys that this version does not know are left out: another may have written them."""
    return {field.name: content[field.name] for field in fields(kind) if field.name in content}


def _matching(path: Path, wanted: Mapping[str, str]) -> dict[str, JsonLine]:
    """The latest lines whose fingerprints are the wanted ones of their ids."""
    return {line["id"]: line for line in read_lines(path) if wanted.get(line["id"]) == line["fingerprint"]}


def _shallow(record: Record) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _read_json(path: Path, missing: str) -> dict[str, Any]:
    remedy = f"delete it and run `ttt-hf eval {'score' if path.name == 'results.json' else 'run'}` again"
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{missing}, it lacks {path.name}: run `ttt-hf eval run` first.") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}.") from error
    # Checked before any key is read: files of other versions have other keys.
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema_version {version!r}, and this version of ttt-hf reads {SCHEMA_VERSION}: run the "
            "evaluation again into another folder."
        )
    try:
        check_layout(path.name, content)
        if path.name == "results.json":
            _check_metrics(content)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}.") from error
    return content


def _check_metrics(results: Mapping[str, Any]) -> None:
    """Checks that the metric that counts has a value where one is shown."""
    if results["task"]["scorer"] not in SCORERS:
        raise ValueError(f"task.scorer is {results['task']['scorer']!r} and not one of {', '.join(SCORERS)}")
    main = SCORERS[results["task"]["scorer"]].headline_of(results["task"]["output"])
    limited = results["limited"]
    is_shown = results["headline"] is not None or bool(limited and results["n_scored"] == limited["n"])
    if results["headline"] not in (None, main) or (is_shown and main not in results["metrics"]):
        raise ValueError(f"headline is {results['headline']!r}, and there is no value of {main}")
