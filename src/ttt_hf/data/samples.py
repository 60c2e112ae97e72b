"""Training samples: prompts by the processor's own template, replies interleaved, labels on every reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..modeling.configuration_ttt import TtTConfig
from ..processing import TtTProcessor
from .conversations import Item, audio_source, row_items
from .interleaving import code_ids, interleave, interleave_texts, span_ids, split_by_time


IGNORE = -100
Sample = dict[str, Any]


class SampleBuilder:
    """Turns canonical rows into training samples.

    Every turn of the assistant is learned: its content and the token that ends it. What stands before a turn is what
    `apply_chat_template` gives at inference for the same history, so that training meets what inference will. A row
    without roles (pre-training) is learned as a whole.

    Args:
        processor: Its chat template writes what is not learned.
        config: Names the audio ids.
        text_per_span: Text tokens before each span of a spoken reply.
        audio_per_span: Codes in each span but the last.
        frame_rate: Codes a second, for replies with time stamps; by default that of the processor's codec.
    """

    def __init__(
        self,
        processor: TtTProcessor,
        config: TtTConfig,
        text_per_span: int = 13,
        audio_per_span: int = 26,
        frame_rate: float | None = None,
    ) -> None:
        self.processor = processor
        self.config = config
        self.text_per_span = text_per_span
        self.audio_per_span = audio_per_span
        if frame_rate is None and processor.codec is not None:
            frame_rate = processor.codec.config.frame_rate
        self.frame_rate = frame_rate

    def __call__(self, row: Mapping[str, Any]) -> Sample:
        """
        Args:
            row: A canonical row whose audio is codes; see `canonical_row` and `encode_source`.

        Returns:
            `input_ids`, `labels` (the same where the model should learn, -100 elsewhere), `length`; where recordings
            that are only listened to have variants, `variants`, see `variants.draw_variants`.

        Raises:
            ValueError: If the row is malformed, has no turn of the assistant, holds audio that is not encoded, or
                codes that are not in the codebook.
        """
        if any(audio_source(item) is not None for item in row_items(row)):
            raise ValueError("This row holds audio that is not encoded: run `ttt-hf encode` on the data first.")
        if row.get("messages"):
            return self._conversation(row["messages"], row.get("task"))
        if not row.get("content"):
            raise ValueError("A canonical row has 'messages' or 'content': canonical_row makes one of other forms.")
        ids = self._in_order(row["content"], _last_audio(row["content"]))
        return _sample(ids, list(ids))

    # -- conversations ------------------------------------------------------------------------------------------------

    def _conversation(self, messages: Sequence[Mapping[str, Any]], task: str | None) -> Sample:
        replies = [self._reply(message) for message in messages if message["role"] == "assistant"]
        if not replies:
            raise ValueError("The conversation has no turn of the assistant: there is nothing to learn.")
        for message in messages:
            if message["role"] != "assistant":
                for item in message["content"]:
                    if item["type"] == "audio":
                        for codes in (_codes(item), *(item.get("variants") or ())):
                            code_ids(codes, self.config)  # checks them
        # The template writes the frame, in which one code stands for each reply: text of the template's on both sides
        # of it is then tokenized as at inference, whatever the reply is.
        stand_in = [{"type": "audio", "codes": [0]}]
        frame = [
            {"role": message["role"], "content": stand_in if message["role"] == "assistant" else message["content"]}
            for message in messages
        ]
        rendered = self.processor.apply_chat_template(frame, task=task, return_tensors=None)["input_ids"][0]
        ids: list[int] = []
        labels: list[int] = []
        place = 0
        for (start, end), reply in zip(self._stand_ins(rendered, len(replies)), replies):
            # The token behind a reply ends the turn.
            learned = reply + rendered[end : end + 1]
            ids += rendered[place:start] + learned
            labels += [IGNORE] * (start - place) + learned
            place = end + 1
        # Nothing is learned behind the last reply, and nothing is behind it at inference.
        sample = _sample(ids, labels)
        listened = [item for message in messages if message["role"] != "assistant" for item in message["content"]]
        if any(item.get("variants") for item in listened):
            sample["variants"] = self._variants(listened, sample)
        return sample

    def _variants(self, items: Sequence[Item], sample: Sample) -> list[dict[str, Any]]:
        """Where recordings that are only listened to stand in a sample, and what else may stand there."""
        lowest = self.config.audio_code_offset
        ids, labels = np.asarray(sample["input_ids"]), np.asarray(sample["labels"])
        is_listened = (ids >= lowest) & (ids < lowest + self.config.audio_vocab_size) & (labels == IGNORE)
        edges = np.flatnonzero(np.diff(is_listened.astype(np.int8), prepend=0, append=0)).tolist()
        recordings = [item for item in items if item["type"] == "audio" and len(_codes(item))]
        found = []
        # A recording behind the last reply is not part of the sample.
        for item, start, end in zip(recordings, edges[::2], edges[1::2]):
            if sample["input_ids"][start:end] != code_ids(_codes(item), self.config):
                raise ValueError(
                    "The chat template does not write the user's recordings in their order: take the template of a "
                    "TtT checkpoint, or encode without variants."
                )
            if item.get("variants"):
                variants = [code_ids(codes, self.config) for codes in item["variants"]]
                found.append({"start": start, "end": end, "input_ids": variants})
        return found

    def _stand_ins(self, rendered: list[int], count: int) -> list[tuple[int, int]]:
        stand_in = span_ids([0], self.config, is_last=True)
        ends = [place + 1 for place, token in enumerate(rendered) if token == stand_in[-1]]
        places = [(end - len(stand_in), end) for end in ends]
        if len(places) != count or any(rendered[start:end] != stand_in for start, end in places):
            raise ValueError(
                "The chat template does not write the assistant's audio as <|begin_of_quad|>, codes, "
                "<|end_of_audio_span_last|>: take the template of a TtT checkpoint."
            )
        return places

    def _reply(self, message: Mapping[str, Any]) -> list[int]:
        items = message["content"]
        if message.get("interleaved"):
            return self._in_order(items, items[-1])
        codes = [code for item in items if item["type"] == "audio" for code in _codes(item)]
        texts = [item for item in items if item["type"] == "text"]
        text = "".join(item["text"] for item in texts)
        words = [word for item in texts for word in item.get("words") or ()]
        if not (words and codes):
            return interleave(self._text_ids(text), codes, self.config, self.text_per_span, self.audio_per_span)
        if self.frame_rate is None:
            raise ValueError("Time stamps need the codec's frame rate: give frame_rate, or a processor with a codec.")
        spans = -(-len(codes) // self.audio_per_span)
        pieces = split_by_time(text, words, self.audio_per_span / self.frame_rate, spans)
        return interleave_texts([self._text_ids(piece) for piece in pieces], codes, self.config, self.audio_per_span)

    # -- items --------------------------------------------------------------------------------------------------------

    def _in_order(self, items: Sequence[Item], last: Item | None) -> list[int]:
        """Ids of items in the order given; `last` is the one that gets the markers of a last span by default."""
        ids: list[int] = []
        for item in items:
            if item["type"] == "text":
                ids += self._text_ids(item["text"])
                continue
            span = item.get("span") or ("last" if item is last else "middle")
            if span == "user":
                names = self.processor.token_ids
                codes = code_ids(_codes(item), self.config)
                ids += [names.begin_audio_token_ids[0], *codes, names.end_user_audio_token_id]
            else:
                ids += span_ids(_codes(item), self.config, is_last=span == "last")
        return ids

    def _text_ids(self, text: str) -> list[int]:
        # Names of special tokens in a text stay text, as in apply_chat_template.
        return self.processor.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _codes(item: Mapping[str, Any]) -> Sequence[int]:
    if item.get("codes") is None:
        raise ValueError("An audio item of a sample needs its codes.")
    codes = item["codes"]
    return codes.tolist() if hasattr(codes, "tolist") else codes


def _last_audio(items: Sequence[Item]) -> Item | None:
    return next((item for item in reversed(items) if item["type"] == "audio"), None)


def _sample(ids: list[int], labels: list[int]) -> Sample:
    return {"input_ids": ids, "labels": labels, "length": len(ids)}
