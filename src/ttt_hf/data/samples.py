"""Chat samples for training: the prompt by the processor's own template, the reply in the interleaved format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..modeling.configuration_ttt import TtTConfig
from ..processing import TtTProcessor
from .interleaving import interleave


@dataclass
class ChatExample:
    """
    One question and its reply.

    Args:
        task (`str`): Task whose system prompt opens the conversation (`asr`, `chat`, `tts`, `audio`, `text`).
        user (`list[dict]`): Content items of the user's turn, as `apply_chat_template` takes them.
        text (`str`): Text of the reply.
        codes (`Sequence[int]`): Audio codes of the reply; empty for a reply of text alone.
    """

    task: str
    user: list[dict[str, Any]]
    text: str
    codes: Sequence[int] = ()


class ChatSampleBuilder:
    """
    Turns `ChatExample`s into training samples.

    Args:
        processor (`TtTProcessor`): Its chat template writes the prompt, so that training meets what inference will.
        config (`TtTConfig`): Names the audio ids.
        text_per_span (`int`, defaults to 13): Text tokens before each span of a spoken reply.
        audio_per_span (`int`, defaults to 26): Codes in each span but the last.
    """

    def __init__(
        self, processor: TtTProcessor, config: TtTConfig, text_per_span: int = 13, audio_per_span: int = 26
    ) -> None:
        self.processor = processor
        self.config = config
        self.text_per_span = text_per_span
        self.audio_per_span = audio_per_span

    def __call__(self, example: ChatExample) -> dict[str, list[int]]:
        """
        Returns:
            `dict`: `input_ids` (prompt, reply, end of turn), `labels` (the same with -100 over the prompt), `length`.
        """
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": example.user}],
            task=example.task,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )["input_ids"][0].tolist()
        tokenizer = self.processor.tokenizer
        text_ids = tokenizer(example.text, add_special_tokens=False)["input_ids"]
        reply = interleave(text_ids, example.codes, self.config, self.text_per_span, self.audio_per_span)
        reply.append(tokenizer.eos_token_id)
        ids = prompt + reply
        return {"input_ids": ids, "labels": [-100] * len(prompt) + reply, "length": len(ids)}
