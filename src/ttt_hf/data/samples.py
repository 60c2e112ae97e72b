"""Training samples: prompts by the processor's own template, interleaved replies, labels on every reply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..modeling.configuration_ttt import TtTConfig
from ..processing import TtTProcessor
from ..processing.tokenization import encode_text
from .conversations import Item, audio_source, row_items
from .interleaving import code_ids, interleave, interleave_texts, span_ids, split_by_time
from .sources import check_broken


IGNORE = -100
Sample = dict[str, Any]


class SampleBuilder:
    """Turns canonical rows into training samples.

    Every turn of the assistant is learned: its content and the token that ends it. The tokens before a turn are those
    of `apply_chat_template` for the same history, so that prompts are the same in training and at inference. All of a
    row without roles (pre-training) is learned.

    Args:
        processor: Its chat template writes the prompts.
        config: Names the audio ids.
        text_per_span: Text tokens before each span of a spoken reply.
        audio_per_span: Codes in each span but the last.
        frame_rate: Codes per second, for replies with time stamps; by default that of the processor's codec.
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
            `input_ids`, `labels` (the same ids where the model learns, -100 elsewhere), `length`, and `variants` where
            recordings of the user have some (see `variants.draw_variants`).

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
        # Pre-training: all of the row is learned, user's audio included.
        ids = self._in_order(row["content"], _last_audio(row["content"]))
        return _sample(ids, list(ids))

    # -- conversations ------------------------------------------------------------------------------------------------

    def _conversation(self, messages: Sequence[Mapping[str, Any]], task: str | None) -> Sample:
        replies = [self._reply(message) for message in messages if message["role"] == "assistant"]
        if not replies:
            raise ValueError("The conversation has no turn of the assistant: there is nothing to learn.")
        # 1. Codes of the user. Variants do not pass through the template, so nothing else would check them.
        for message in messages:
            if message["role"] != "assistant":
                for item in message["content"]:
                    if item["type"] == "audio":
                        for codes in (_codes(item), *(item.get("variants") or ())):
                            code_ids(codes, self.config)  # checks them
        # 2. Prompts.
        # The template is rendered with one code in place of each reply, so that its text on both sides of a reply is
        # tokenized as at inference, whatever the reply is.
        stand_in = [{"type": "audio", "codes": [0]}]
        frame = [
            {"role": message["role"], "content": stand_in if message["role"] == "assistant" else message["content"]}
            for message in messages
        ]
        rendered = self.processor.apply_chat_template(frame, task=task, return_tensors=None)["input_ids"][0]
        # 3. Each stand-in is replaced by its reply: prompts get no labels, replies get all.
        ids: list[int] = []
        labels: list[int] = []
        position = 0
        for (start, end), reply in zip(self._stand_ins(rendered, len(replies)), replies):
            # The token after a reply ends the turn.
            learned = reply + rendered[end : end + 1]
            ids += rendered[position:start] + learned
            labels += [IGNORE] * (start - position) + learned
            position = end + 1
        # Tokens after the last reply are left out: nothing of them is learned.
        sample = _sample(ids, labels)
        prompts = [item for message in messages if message["role"] != "assistant" for item in message["content"]]
        if any(item.get("variants") for item in prompts):
            sample["variants"] = self._variants(prompts, sample)
        return sample

    def _variants(self, items: Sequence[Item], sample: Sample) -> list[dict[str, Any]]:
        """Finds the recordings of the user in a sample, with the ids of their variants."""
        lowest = self.config.audio_code_offset
        ids, labels = np.asarray(sample["input_ids"]), np.asarray(sample["labels"])
        # Audio without labels is the user's: that of replies is learned.
        is_prompt = (ids >= lowest) & (ids < lowest + self.config.audio_vocab_size) & (labels == IGNORE)
        # Edges alternate between the start of a recording and the position after its end; markers separate neighbours.
        edges = np.flatnonzero(np.diff(is_prompt.astype(np.int8), prepend=0, append=0)).tolist()
        # A recording without codes leaves no trace in the ids.
        recordings = [item for item in items if item["type"] == "audio" and len(_codes(item))]
        found = []
        # A recording after the last reply is not part of the sample.
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
        """Start and end of the codes that stand in for the replies."""
        stand_in = span_ids([0], self.config, is_last=True)
        # Only a reply's last span has this end marker: the user's audio has another, and texts hold no special tokens.
        ends = [index + 1 for index, token in enumerate(rendered) if token == stand_in[-1]]
        found = [(end - len(stand_in), end) for end in ends]
        if len(found) != count or any(rendered[start:end] != stand_in for start, end in found):
            raise ValueError(
                "The chat template does not write the assistant's audio as <|begin_of_quad|>, codes, "
                "<|end_of_audio_span_last|>: take the template of a TtT checkpoint."
            )
        return found

    def _reply(self, message: Mapping[str, Any]) -> list[int]:
        items = message["content"]
        if message.get("interleaved"):
            return self._in_order(items, items[-1])
        # Otherwise only the order within text and within audio counts: spans are cut anew.
        codes = [code for item in items if item["type"] == "audio" for code in _codes(item)]
        texts = [item for item in items if item["type"] == "text"]
        text = "".join(item["text"] for item in texts)
        words = [word for item in texts for word in item.get("words") or ()]
        if not (words and codes):
            return interleave(self._text_ids(text), codes, self.config, self.text_per_span, self.audio_per_span)
        if self.frame_rate is None:
            raise ValueError("Time stamps need the codec's frame rate: give frame_rate, or a processor with a codec.")
        # Rounded up: the last span may be shorter.
        spans = -(-len(codes) // self.audio_per_span)
        pieces = split_by_time(text, words, self.audio_per_span / self.frame_rate, spans)
        return interleave_texts([self._text_ids(piece) for piece in pieces], codes, self.config, self.audio_per_span)

    # -- items --------------------------------------------------------------------------------------------------------

    def _in_order(self, items: Sequence[Item], last: Item | None) -> list[int]:
        """Ids of items in the order given; `last` gets the markers of a last span unless it names others."""
        ids: list[int] = []
        for item in items:
            if item["type"] == "text":
                ids += self._text_ids(item["text"])
                continue
            # By identity, since equal items may occur twice.
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
        return encode_text(self.processor.tokenizer, self.processor.token_ids, text)


def build_samples(
    builder: SampleBuilder, rows: Iterable[Mapping[str, Any]], broken: list[str], allowed: int
) -> Iterator[Sample]:
    """Builds samples, and leaves out rows that cannot be learned.

    Args:
        builder: Builds each.
        rows: Canonical rows with their `origin`.
        broken: Where the file and line of each row that is left out is added, and why. A row of a mixture may come
            again, and counts once.
        allowed: How many may be left out.

    Raises:
        ValueError: If there are more; lists them.
    """
    for row in rows:
        try:
            yield builder(row)
        except ValueError as error:
            problem = f"{row['origin']}: {error}"
            if problem not in broken:
                broken.append(problem)
                check_broken(broken, allowed)


def _codes(item: Mapping[str, Any]) -> Sequence[int]:
    if item.get("codes") is None:
        raise ValueError("An audio item of a sample needs its codes.")
    codes = item["codes"]
    # Codes may be a list, an array or a tensor.
    return codes.tolist() if hasattr(codes, "tolist") else codes


def _last_audio(items: Sequence[Item]) -> Item | None:
    return next((item for item in reversed(items) if item["type"] == "audio"), None)


def _sample(ids: list[int], labels: list[int]) -> Sample:
    return {"input_ids": ids, "labels": labels, "length": len(ids)}
