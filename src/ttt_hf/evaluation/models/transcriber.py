"""Speech recognisers as models under evaluation: the reference scores of recognition tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..concepts import Response, Sample, Task
from ..recognizers.base import Transcriber
from .failing import answer_in_halves, failed_response


class TranscriberModel:
    """A transcriber that answers recognition tasks, in the language of each task.

    Args:
        transcriber: As `load_transcriber` loads it.
    """

    def __init__(self, transcriber: Transcriber) -> None:
        self.transcriber = transcriber

    @property
    def description(self) -> dict[str, Any]:
        """All that the replies depend on. The language is left out: it is the task's."""
        description = dict(self.transcriber.description)
        # Runs in several languages share the identity of the model; each task's fingerprint has its language.
        if description.get("language") is not None:
            description["language"] = "the task's, forced"
        return {"kind": "recognizer", "name": self.transcriber.name, **description}

    def respond(self, samples: Sequence[Sample], task: Task) -> list[Response]:
        """Transcribes a batch.

        Args:
            samples: Recordings.
            task: Has the prompt `asr` and the output `text`.

        Returns:
            The transcripts, in order; `tokens` and `forward_passes` are unknown and 0. A recording that cannot be
            transcribed has `finish_reason="error"`.

        Raises:
            ValueError: If the task is not a recognition task, or the model does not know its language.
        """
        if task.prompt != "asr" or task.output != "text":
            raise ValueError(
                f"{self.transcriber.name} transcribes what is said, and task {task.name} wants answers: run it on "
                "recognition tasks."
            )
        # Outside of the batch: an unknown language is an error of the task, and not of its samples.
        transcriber = self.transcriber.for_language(task.language)

        def transcribe(batch: Sequence[Sample]) -> list[Response]:
            started = time.perf_counter()
            recordings = [(sample.audio, sample.sampling_rate) for sample in batch if sample.audio is not None]
            texts = list(transcriber.transcribe_all(recordings))
            # Time is only known for the batch as such, so that its samples share it equally.
            seconds = (time.perf_counter() - started) / len(batch)
            return [Response(text=text, seconds=seconds) for text in texts]

        # Samples without audio are left out of the batch, and get their failures at their positions.
        responses = iter(answer_in_halves([sample for sample in samples if sample.audio is not None], transcribe))
        return [
            next(responses) if sample.audio is not None else failed_response("The sample has no audio.")
            for sample in samples
        ]
