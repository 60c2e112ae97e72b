"""A callback that generates replies to a few samples during training: text, audio and word error rate."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import TrainerCallback

from ..atomic_files import atomic_write, atomic_write_text
from ..data.samples import IGNORE
from ..evaluation import total_word_errors
from ..modeling import TextSegment, TtTConfig
from ..processing import Reply, TtTProcessor


logger = logging.getLogger(__name__)

SPOKEN_FOLDER = "spoken"
# Bounds on replies relative to the expected ones, as early in training a model may not end its replies.
LENGTH_FACTOR, LENGTH_MARGIN = 2, 32


@dataclass(frozen=True)
class Prompt:
    """The prompt of a sample.

    Args:
        ids: Ids before the first target.
        expected: Ids of the expected reply, the first run of targets.
    """

    ids: list[int]
    expected: list[int]


def find_prompts(samples: Iterable[Mapping[str, Any]]) -> Iterator[Prompt]:
    """Finds the first prompt of each sample and its reply.

    Args:
        samples: Rows with `input_ids` and `labels`, and `sample_lengths` if they are packed.

    Yields:
        The prompts; samples without a prompt (pre-training) are skipped.
    """
    for row in samples:
        start = 0
        for length in row.get("sample_lengths") or [len(row["input_ids"])]:
            ids, labels = (row[name][start : start + length] for name in ("input_ids", "labels"))
            start += length
            # Runs of positions without and with a target; a sample with a prompt starts with one without.
            runs = [(is_target, len(list(run))) for is_target, run in groupby(label != IGNORE for label in labels)]
            if len(runs) > 1 and not runs[0][0]:
                prompt_length, reply_length = runs[0][1], runs[1][1]
                yield Prompt(ids[:prompt_length], ids[prompt_length : prompt_length + reply_length])


class SampleRepliesCallback(TrainerCallback):
    """Generates replies to a few samples at regular steps and at the end of training.

    Replies are written to `OUTPUT_DIR/spoken/step-000200/00.txt` and, if they contain audio, `00.wav`. The word error
    rate of their texts against those of the samples is logged as `spoken_wer`. Weights and random state of the
    training are not affected.

    Args:
        processor: Decodes the replies; without a codec there is no audio.
        samples: Result of `prepare_samples`, of which the first ones are used.
        every: Number of steps between replies.
        log: Logs the word error rate; `Trainer.log`.
    """

    def __init__(
        self,
        processor: TtTProcessor,
        config: TtTConfig,
        samples: Iterable[Mapping[str, Any]],
        count: int,
        every: int,
        log: Callable[[dict[str, float]], None],
    ) -> None:
        self.processor = processor
        self.config = config
        self.every = every
        self.log = log
        longest = config.get_text_config().max_position_embeddings
        # A prompt that fills the context leaves no position for a reply.
        prompts = (prompt for prompt in find_prompts(islice(samples, count)) if len(prompt.ids) < longest)
        self.prompts = list(islice(prompts, count))
        if not self.prompts:
            logger.warning("speak_steps: no replies, as none of the first %d samples has a prompt", count)

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        # Not at the end of a step, where the log entry would replace that of the step.
        if state.global_step and state.global_step % self.every == 0:
            self._speak(args, state, model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._speak(args, state, model)

    def _speak(self, args: Any, state: Any, model: Any) -> None:
        if not self.prompts or not state.is_world_process_zero:
            return
        folder = Path(args.output_dir, SPOKEN_FOLDER, f"step-{state.global_step:06d}")
        folder.mkdir(parents=True, exist_ok=True)
        pairs = []
        for number, (prompt, reply) in enumerate(zip(self.prompts, self._replies(model, args.eval_batch_size))):
            expected = self._text(prompt.expected)
            # One line each: texts may hold line breaks.
            lines = {"prompt": self._prompt_text(prompt.ids), "expected": expected, "reply": reply.text}
            written = [f"{name}: {' '.join(text.split())}" for name, text in lines.items()]
            logger.info("step %d | %s", state.global_step, " | ".join(written))
            _write_reply(folder / f"{number:02d}.txt", written, reply)
            if expected:
                pairs.append((expected, reply.text))
        try:
            rate = total_word_errors(pairs).rate
        except ModuleNotFoundError as error:
            logger.info("spoken_wer needs %s: pip install 'ttt-hf[eval]'", error.name)
            return
        # Without a reference word there is no rate.
        if not math.isnan(rate):
            self.log({"spoken_wer": round(rate, 4)})

    def _replies(self, model: Any, batch_size: int) -> list[Reply]:
        was_training = model.training
        cuda = [model.device] if model.device.type == "cuda" else []
        replies: list[Reply] = []
        try:
            model.eval()
            # With a seed per prompt, sampled replies are comparable between steps, whatever the batches; the random
            # state of the training is restored.
            with torch.random.fork_rng(cuda), torch.no_grad():
                for start in range(0, len(self.prompts), batch_size):
                    batch = self.prompts[start : start + batch_size]
                    out = model.generate(
                        **self._pad([prompt.ids for prompt in batch]).to(model.device),
                        max_new_tokens=LENGTH_FACTOR * max(len(prompt.expected) for prompt in batch) + LENGTH_MARGIN,
                        seed=list(range(start, start + len(batch))),
                        return_dict_in_generate=True,
                    )
                    if self.processor.codec is None:
                        # Audio cannot be decoded without a codec, but the text of the reply can.
                        out.segments = [
                            [piece for piece in pieces if isinstance(piece, TextSegment)] for pieces in out.segments
                        ]
                    replies += [self.processor.decode_reply(out, row) for row in range(len(batch))]
        finally:
            # Also after an error, for example too little memory: dropout must be on again.
            model.train(was_training)
        return replies

    def _pad(self, rows: list[list[int]]) -> Any:
        # (batch, longest prompt), on the left: replies continue at the right end.
        return self.processor.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")

    def _text(self, ids: list[int]) -> str:
        # Markers that open a span have ids among those of text.
        markers = self.config.begin_audio_token_ids or []
        text_ids = [id_ for id_ in ids if id_ < self.config.audio_token_start_id and id_ not in markers]
        return self.processor.tokenizer.decode(text_ids, skip_special_tokens=True).strip()

    def _prompt_text(self, ids: list[int]) -> str:
        runs = groupby(ids, key=lambda id_: id_ >= self.config.audio_token_start_id)
        return " ".join("(speech)" if is_audio else self._text(list(run)) for is_audio, run in runs)


def _write_reply(path: Path, lines: list[str], reply: Reply) -> None:
    """Writes the text of a reply and, next to it, its audio."""
    atomic_write_text(path, "\n".join(lines) + "\n")
    sound = path.with_suffix(".wav")
    if not len(reply.audio):
        # One of an earlier training in this folder would be taken for this reply.
        sound.unlink(missing_ok=True)
        return
    with atomic_write(sound) as part:
        soundfile.write(part, np.clip(reply.audio, -1, 1), reply.sampling_rate, subtype="PCM_16", format="WAV")
