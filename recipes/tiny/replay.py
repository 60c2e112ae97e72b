"""Recordings instead of a model's replies, for reference scores: the errors left are those of the transcriber."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ttt_hf.codecs import load_codec
from ttt_hf.evaluation import Response, Sample, Task
from ttt_hf.evaluation.identity import content_hash
from ttt_hf.processing.audio import resample


class RecordedReplies:
    """A `SpeechModel` that replies to each sample with the sample's own recording.

    Args:
        codec_folder: A codec that encodes and decodes each recording first, so that its loss is in the score, too.
    """

    def __init__(self, codec_folder: Path | None = None) -> None:
        self.codec = load_codec(codec_folder) if codec_folder is not None else None
        self._revision = content_hash(codec_folder) if codec_folder is not None else None

    @property
    def description(self) -> dict[str, Any]:
        """Identifies the replies: whether there is a codec, and a hash of its folder."""
        name = "recordings" if self.codec is None else "recordings, encoded and decoded"
        return {"kind": "recordings", "name": name, "revision": self._revision}

    def respond(self, samples: Sequence[Sample], task: Task) -> list[Response]:
        """Replies with the recordings of a batch.

        Args:
            samples: Samples with the recording and, as `question`, its text.
            task: Any task with spoken replies.

        Returns:
            A reply to each sample, in order.

        Raises:
            ValueError: A sample has no recording.
        """
        return [self._reply(sample) for sample in samples]

    def _reply(self, sample: Sample) -> Response:
        if sample.audio is None:
            raise ValueError(f"The sample {sample.id} has no recording to reply with.")
        started = time.perf_counter()
        audio, rate = sample.audio, sample.sampling_rate
        # The recording may have another rate than the codec; the reply gets that of the codec.
        if self.codec is not None:
            codec_rate = self.codec.config.sampling_rate
            waveform = torch.from_numpy(resample(audio, rate, codec_rate))
            with torch.no_grad():
                decoded = self.codec.decode(self.codec.encode(waveform[None]))
            audio, rate = decoded[0].flatten().float().numpy(), codec_rate
        # The text of the reply is the reference that its transcript is compared with.
        return Response(text=sample.question, audio=audio, sampling_rate=rate, seconds=time.perf_counter() - started)
