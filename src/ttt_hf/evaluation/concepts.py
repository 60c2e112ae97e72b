"""The objects of an evaluation: tasks, samples, responses, and the records that scores are a pure function of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict


if TYPE_CHECKING:
    import numpy as np


FinishReason = Literal["stop", "length", "repetition", "interrupted", "error"]


@dataclass(frozen=True)
class DatasetSource:
    """The data of a task, pinned to a revision.

    Args:
        path: Hub dataset id, or a local file or folder.
        columns: Our name -> the data set's column: `audio`, `references`, and optionally `id`, `question`, `seconds`.
            References may be several columns; a dot leads into a cell (`answer.aliases`).
        name: Configuration of the data set.
        revision: Commit or tag on the Hub.
        split: Split.
        expected: Number of samples of the benchmark; none for a user's own data.
        hint: How to get the data where they cannot be downloaded freely.
        table: For a table beside a folder of audio: path of the table in the data set.
        audio_folder: Folder that the file names of audio in `table` are relative to; the table's own by default.
        separator: Separator of the references where one cell holds several.
        allow_private: Whether rows may name any file, and addresses of this machine and its own network.
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
    allow_private: bool = False


class JudgeSettings(TypedDict, total=False):
    """Settings of the judge of a task, see `Judge`."""

    prompt: str
    parser: str | None
    samples: int
    temperature: float


@dataclass(frozen=True)
class Task:
    """One benchmark: data, prompt, modality of the reply and scorer.

    Args:
        name: Name on the command line.
        version: Raised whenever scores before and after cannot be compared.
        source: Where the samples are.
        prompt: Name of the system prompt (`asr`, `chat`, ...).
        output: What is scored: the text alone, or also the transcribed speech.
        scorer: Name in `SCORERS`.
        scorer_options: Keyword arguments of the scorer, such as the normaliser.
        language: Language of the replies, ISO 639-1; the transcriber is set to it.
        judge: Settings of the judge where the scorer needs one.
        generation: Generation settings of the task.
        instruction: Written instruction after the audio of each sample ("Which sound is this?"); may be empty.
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
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    generation: Mapping[str, Any] = field(default_factory=dict)
    instruction: str = ""
    description: str = ""


@dataclass(frozen=True)
class Sample:
    """One question to a model.

    Args:
        id: Unique within the task, and the same in every run.
        audio: Mono float32 in [-1, 1] of shape `(samples,)`; none for a written question.
        sampling_rate: Rate of `audio` in Hz.
        question: The question in writing; for spoken ones it is what a judge is shown, and may be empty.
        references: Accepted answers, or the one transcript. Models must not use them.
    """

    id: str
    audio: np.ndarray | None
    sampling_rate: int
    question: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Response:
    """The reply of a model to one sample, with its cost.

    Args:
        text: Empty if it failed.
        audio: Speech, float32 of shape `(samples,)`.
        sampling_rate: Rate of `audio` in Hz.
        codes: Audio codes of the speech, for models that have them.
        finish_reason: Whether the reply ended by itself, was cut at a limit or in a loop, was interrupted, or failed.
        tokens: Generated tokens including codes; 0 where unknown.
        forward_passes: Forward passes of the model; 0 where unknown.
        seconds: Wall-clock time; for a batch, its time divided by its size.
        error: Why it failed, one sentence.
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
        score: The parsed score; none if the answer could not be parsed.
        raw: The answer verbatim.
        error: Why there is no score.
        prompt_tokens, completion_tokens: Tokens that the judge read and wrote.
        about: Which part of a reply was judged.
    """

    score: float | None
    raw: str
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    about: Literal["text", "transcript"] = "text"


@dataclass(frozen=True)
class Record:
    """The data of one sample that scorers may use.

    Args:
        id: Id of the sample.
        question: The question in writing, may be empty.
        references: Accepted answers.
        text: Text of the reply, "" if it failed.
        transcript: Transcript of the reply's speech; none for tasks without speech.
        judgements: Answers of the judge about the text or the transcript.
        finish_reason: See [`Response`].
        language: Language of the task.
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
    """What one sample contributes to the metrics: a metric is the sum of numerators over the sum of denominators.

    So a word error rate is a corpus rate, an accuracy counts every sample, and one bootstrap serves all metrics.

    Args:
        values: Metric -> (numerator, denominator).
        counts: Further counts that are summed, such as substitutions.
    """

    values: Mapping[str, tuple[float, float]]
    counts: Mapping[str, int] = field(default_factory=dict)


class SpeechModel(Protocol):
    """The interface of all models under evaluation."""

    @property
    def description(self) -> dict[str, Any]:
        """All that the replies depend on: name, revision, codec, settings, versions; equal only for equal replies."""

    def respond(self, samples: Sequence[Sample], task: Task) -> list[Response]:
        """Answers a batch, in order. A sample that fails gets `finish_reason="error"`; the others are not affected."""
