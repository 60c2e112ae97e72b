"""Speech recognisers as models under evaluation: the yardstick of recognition tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..concepts import Response, Sample, Task
from ..recognizers.base import Transcriber
from .failing import answer_in_halves, failed_reply


class TranscriberModel:
    """A speech recogniser that answers recognition tasks, in the language of each.

    Args:
        recognizer: What `load_transcriber` gives.
    """

    def __init__(self, recognizer: Transcriber) -> None:
        self.recognizer = recognizer

    @property
    def description(self) -> dict[str, Any]:
        """What decides the replies. The language is the task's, which names it."""
        description = dict(self.recognizer.description)
        if description.get("language") is not None:
            description["language"] = "the task's, forced"
        return {"kind": "recognizer", "name": self.recognizer.name, **description}

    def respond(self, samples: Sequence[Sample], task: Task) -> list[Response]:
        """Writes a batch down.

        Args:
            samples: Recordings.
            task: One with the prompt `asr` and written replies.

        Returns:
            The transcripts, in order, with `tokens` and `forward_passes` 0: recognisers do not tell. A recording that
            cannot be heard has `finish_reason="error"`.

        Raises:
            ValueError: The task is not one of recognition, or in a language that the model does not know.
        """
        if task.prompt != "asr" or task.output != "text":
            raise ValueError(
                f"{self.recognizer.name} writes down what is said, and task {task.name} wants answers: run it on "
                "recognition tasks."
            )
        recognizer = self.recognizer.for_language(task.language)

        def hear(batch: Sequence[Sample]) -> list[Response]:
            started = time.perf_counter()
            recordings = [(sample.audio, sample.sampling_rate) for sample in batch if sample.audio is not None]
            texts = list(recognizer.transcribe_all(recordings))
            seconds = (time.perf_counter() - started) / len(batch)
            return [Response(text=text, seconds=seconds) for text in texts]

        replies = iter(answer_in_halves([sample for sample in samples if sample.audio is not None], hear))
        return [
            next(replies) if sample.audio is not None else failed_reply("The sample has no audio.")
            for sample in samples
        ]
