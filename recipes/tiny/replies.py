"""Puts cases to a checkpoint in batches and collects its replies, with the time they took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ttt_hf.modeling import TtTForConditionalGeneration
from ttt_hf.processing import TtTProcessor

from .cases import Case


@dataclass
class CaseReply:
    """What the model made of one case.

    Args:
        case: What was asked.
        task: The task it was asked under.
        text: The written reply.
        audio: The spoken reply; empty where there is none, shape `(samples,)`.
        sampling_rate: Its rate in Hz.
        finished: The reply ended by itself and every span was closed.
        forward_passes: Forwards of the model that took part in this row.
        transcript: What Whisper heard in `audio`.
    """

    case: Case
    task: str
    text: str
    audio: np.ndarray
    sampling_rate: int
    finished: bool
    forward_passes: int
    transcript: str | None = None

    @property
    def seconds(self) -> float:
        """Duration of the spoken reply."""
        return len(self.audio) / self.sampling_rate


@dataclass
class Speed:
    """Time spent in `generate`, and what came out of it."""

    generate_seconds: float = 0.0
    prepare_seconds: float = 0.0
    decode_seconds: float = 0.0
    audio_seconds: float = 0.0
    forward_passes: int = 0
    replies: int = 0

    def report(self) -> dict[str, Any]:
        """The sums, and generation time by second of speech."""
        numbers = {name: round(value, 3) for name, value in asdict(self).items()}
        by_second = self.generate_seconds / self.audio_seconds if self.audio_seconds else None
        return {**numbers, "generate_seconds_per_audio_second": round(by_second, 4) if by_second else None}


@dataclass
class Respondent:
    """A checkpoint that is asked.

    Args:
        model: The model.
        processor: Its processor, codec included.
        batch_size: Rows generated together.
        seed: Seed of whatever `generate` samples.
        generation: Keyword arguments of `generate` that differ from the checkpoint's own.
    """

    model: TtTForConditionalGeneration
    processor: TtTProcessor
    batch_size: int
    seed: int
    generation: dict[str, Any] = field(default_factory=dict)

    def answer(self, cases: Sequence[Case], task: str, batch_size: int | None = None) -> tuple[list[CaseReply], Speed]:
        """Generates a reply to every case.

        Args:
            cases: What to ask.
            task: `asr`, `chat`, `tts` or `text`.
            batch_size: Rows generated together; `self.batch_size` by default.

        Returns:
            A reply to each case, in order, and the time it took.
        """
        batch_size = batch_size or self.batch_size
        # Neighbours in length waste the least padding.
        order = sorted(range(len(cases)), key=lambda index: cases[index].length)
        replies: list[CaseReply | None] = [None] * len(cases)
        speed = Speed()
        starts = range(0, len(order), batch_size)
        for start in tqdm(starts, desc=f"{task:>5}", unit="batch", disable=len(cases) < 2 * batch_size):
            rows = order[start : start + batch_size]
            for row, reply in zip(rows, self._answer_batch([cases[row] for row in rows], task, speed), strict=True):
                replies[row] = reply
        return [reply for reply in replies if reply is not None], speed

    def _answer_batch(self, cases: Sequence[Case], task: str, speed: Speed) -> list[CaseReply]:
        started = time.perf_counter()
        inputs = self.processor.apply_chat_template(
            [[{"role": "user", "content": case.content(task)}] for case in cases],
            task=task,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        ).to(self.model.device)
        prepared = time.perf_counter()
        # One seed for every row, so that a reply does not depend on the batch it was made in.
        keys = {"seed": self.seed, **self.generation}
        output = self.model.generate(**inputs, return_dict_in_generate=True, **keys)
        generated = time.perf_counter()
        # Prompts hold ends of turns, too; the output's rows begin with the prompt without its padding.
        prompt_lengths = inputs["attention_mask"].sum(dim=1).tolist()
        replies = []
        for row, case in enumerate(cases):
            decoded = self.processor.decode_reply(output, row=row)
            ended = self.processor.tokenizer.eos_token_id in output.sequences[row, prompt_lengths[row] :].tolist()
            closed = all(segment["complete"] for segment in decoded.segments if segment["type"] == "audio")
            replies.append(
                CaseReply(
                    case=case,
                    task=task,
                    text=decoded.text,
                    audio=decoded.audio,
                    sampling_rate=decoded.sampling_rate,
                    finished=ended and closed,
                    forward_passes=int(output.num_forward_passes[row]),
                )
            )
        speed.prepare_seconds += prepared - started
        speed.generate_seconds += generated - prepared
        speed.decode_seconds += time.perf_counter() - generated
        speed.audio_seconds += sum(reply.seconds for reply in replies)
        speed.forward_passes += sum(reply.forward_passes for reply in replies)
        speed.replies += len(replies)
        return replies

    def through_codec(self, waveform: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
        """Encodes a recording and decodes it again, for what the codec alone costs.

        Args:
            waveform: Mono samples, shape `(samples,)`.
            rate: Their rate in Hz.

        Returns:
            The resynthesised samples and their rate.
        """
        codec = self.processor.codec
        codec_rate = codec.config.sampling_rate
        if rate != codec_rate:
            import soxr

            waveform = soxr.resample(waveform, rate, codec_rate)
        with torch.no_grad():
            codes = codec.encode(torch.from_numpy(waveform).to(codec.device)[None])
            return codec.decode(codes)[0].float().cpu().numpy(), codec_rate
