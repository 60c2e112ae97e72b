"""What the harness is made of: tasks, samples, replies, and the recorded data that scores are a pure function of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol


if TYPE_CHECKING:
    import numpy as np


FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True)
class DatasetSource:
    """Where a task's samples come from, pinned.

    Args:
        path: Hub dataset id, or a local file or folder (JSONL, Parquet, CSV, audiofolder).
        columns: Our name -> the data set's column: `audio`, `references`, and where it has them `id`, `question`,
            `seconds`. References may be several columns; a dot leads into a cell (`answer.aliases`).
        name: Configuration of the data set.
        revision: Commit or tag on the Hub.
        split: Split.
        expected: Number of samples that the benchmark has; none for a user's own data.
        hint: How to get the data where it cannot be downloaded freely.
        table: Where the data set is a table beside a folder of audio: path of the table in it.
        audio_folder: Where file names of audio in that table begin; beside the table by default.
        separator: What stands between the references where one cell holds several.
    """

    path: str
    columns: Mapping[str, str | Sequence[str]]
    name: str | None = None
    revision: str | None = None
    split: str = "test"
    expected: int | None = None
    hint: str = ""
    table: str | None = None
    audio_folder: str | None = None
    separator: str | None = None


@dataclass(frozen=True)
class Task:
    """One benchmark: data, prompt, kind of reply and scorer. Another number means another version.

    Args:
        name: Name on the command line.
        version: Raised whenever scores before and after cannot be compared.
        source: The samples.
        prompt: Name of the model's task, which chooses the system prompt (`asr`, `chat`, ...).
        output: What is scored; with `speech` the reply is spoken, too, and transcribed.
        scorer: Name in `SCORERS`.
        scorer_options: Its keyword arguments, such as the normaliser.
        language: Language of the replies, ISO 639-1; forced in transcription.
        judge: Settings of the judge where the scorer needs one: `prompt`, `samples`, `temperature`.
        generation: Generation settings that belong to the task.
        instruction: What a model is told in writing after the audio of each sample ("Which sound is this?"); empty
            where the audio says everything.
        description: One line for `eval tasks`.
    """

    name: str
    version: int
    source: DatasetSource
    prompt: str
    output: Literal["text", "speech"]
    scorer: str
    scorer_options: Mapping[str, Any] = field(default_factory=dict)
    language: str = "en"
    judge: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    instruction: str = ""
    description: str = ""


@dataclass(frozen=True)
class Sample:
    """One question to a model.

    Args:
        id: Unique within the task, the same in every run.
        audio: Mono float32 in [-1, 1]; none for a written question, shape `(samples,)`.
        sampling_rate: Rate of `audio` in Hz.
        question: Written question; for spoken ones what a judge is shown, may be empty.
        references: Accepted answers, or the one transcript. A model never sees them.
    """

    id: str
    audio: np.ndarray | None
    sampling_rate: int
    question: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Response:
    """What a model said to one sample.

    Args:
        text: Its text; empty if it failed.
        audio: Its speech, float32, shape `(samples,)`.
        sampling_rate: Rate of `audio` in Hz.
        codes: Audio codes of the speech, for models that have them.
        finish_reason: Ended by itself, cut at a limit, or failed.
        tokens: Generated tokens, codes included; 0 where unknown.
        forward_passes: Passes through the model; 0 where unknown.
        seconds: Wall-clock time, a batch's time divided by its size.
        error: What went wrong, one sentence.
    """

    text: str
    audio: np.ndarray | None = None
    sampling_rate: int = 16000
    codes: tuple[int, ...] = ()
    finish_reason: FinishReason = "stop"
    tokens: int = 0
    forward_passes: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Judgement:
    """One answer of a judge.

    Args:
        score: What it means as a number; none if it could not be read.
        raw: The judge's words.
        error: Why there is no score.
        prompt_tokens, completion_tokens: What it cost.
        about: What was judged of a reply.
    """

    score: float | None
    raw: str
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    about: Literal["text", "transcript"] = "text"


@dataclass(frozen=True)
class Record:
    """All that is recorded of one sample and that scorers may look at.

    Args:
        id: The sample's.
        question: The question in writing, may be empty.
        references: Accepted answers.
        text: The reply's text, "" if it failed.
        transcript: What the reply's speech says; none for tasks without speech.
        judgements: Answers of the judge, of the text or the transcript.
        finish_reason: See [`Response`].
        language: The task's.
    """

    id: str
    question: str
    references: tuple[str, ...]
    text: str
    transcript: str | None = None
    judgements: tuple[Judgement, ...] = ()
    finish_reason: FinishReason = "stop"
    language: str = "en"


@dataclass(frozen=True)
class SampleScore:
    """What one sample adds to a task's metrics. A metric is the sum of numerators over the sum of denominators.

    So a word error rate is a corpus rate, an accuracy counts every sample, and one bootstrap serves all metrics.

    Args:
        values: Metric -> (numerator, denominator).
        counts: Further counts that are added up, such as substitutions.
    """

    values: Mapping[str, tuple[float, float]]
    counts: Mapping[str, int] = field(default_factory=dict)


class Scorer(Protocol):
    """A pure function of one record; the options are the task's `scorer_options`."""

    def __call__(self, record: Record, **options: Any) -> SampleScore: ...


class SpeechModel(Protocol):
    """Anything that answers samples."""

    @property
    def description(self) -> dict[str, Any]:
        """What decides the replies: name, revision, codec, settings, versions. Equal descriptions, equal replies."""

    def respond(self, samples: Sequence[Sample], task: Task) -> list[Response]:
        """Answers a batch; a sample that fails gets a reply with `finish_reason="error"`, the others their answers."""
