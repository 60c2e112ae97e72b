"""A dialogue with a model, turn by turn: a further turn costs its own tokens only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import StoppingCriteriaList

from ..modeling.session_ttt import DecodingSession, SessionEvent
from ..modeling.streamers_ttt import InterruptCriteria
from .conversation import AUDIO_KEYS, DEFAULT_TASK, Message, plain_item
from .fetching import USER, Access
from .replies import Reply
from .reply_streams import ReplyStream


if TYPE_CHECKING:
    from ..modeling.modeling_ttt import TtTForConditionalGeneration
    from .processing_ttt import TtTProcessor


class Dialogue:
    """A dialogue in the only slot of a `DecodingSession`, which keeps the keys of what has been said.

    Recordings are encoded once and kept as codes. A turn that fails, or whose iteration is left early, is as if it had
    not been.

    Args:
        model: The model.
        processor: Its processor.
        task: Selects the system prompt.
        turns: Number of earlier turns that the model sees; by default as many as leave room for a reply.
        access: What audio items may name, see `read_audio`.

    Attributes:
        messages: What has been said, as `TtTProcessor.apply_chat_template` takes it, without the system prompt.
        system: System prompt in place of the task's.
        reply: The last reply.
        num_forward_passes: Number of forwards that it took.

    Example:
        ```python
        dialogue = Dialogue(model, processor)
        for piece in dialogue.respond("What is two plus two?", seed=0):
            if isinstance(piece, str):
                print(piece, end="", flush=True)
        ```
    """

    def __init__(
        self,
        model: TtTForConditionalGeneration,
        processor: TtTProcessor,
        task: str = DEFAULT_TASK,
        turns: int | None = None,
        access: Access = USER,
    ) -> None:
        self.model = model
        self.processor = processor
        self.task = task
        self.turns = turns
        self.access = access
        self.messages: list[Message] = []
        self.system: str | None = None
        self.reply: Reply | None = None
        self.num_forward_passes = 0
        self._first = 0  # of the messages that the model still sees
        self._session = DecodingSession(model, slots=1)
        self._slot: int | None = None
        self._interrupt = InterruptCriteria()

    def respond(self, content: str | list[dict[str, Any]], **generation: Any) -> Iterator[str | np.ndarray]:
        """Takes the user's turn and generates the model's.

        Args:
            content: Of the user's message: a string or a list of content items.
            **generation: Arguments of `generate()`.

        Yields:
            The reply as it is generated: text, and samples, float32 of shape `(samples,)` at the codec's output rate.
            Afterwards `reply` holds all of it.

        Raises:
            ValueError: If the turn is too long for the model, or an argument or a recording cannot be used.
            OSError: If a recording cannot be opened.
        """
        self._interrupt.event.clear()
        turn = {"role": "user", "content": self._with_codes(content)}
        first, prompt, room = self._prompt(turn, generation.get("max_new_tokens"))
        # Not every codec decodes piece by piece.
        streams_speech = hasattr(self.processor.codec, "decode_stream")
        stream = ReplyStream(self.processor, speech=streams_speech)
        self._slot = self._session.admit(
            prompt,
            slot=self._slot,
            keep_cache=True,
            **{**generation, "max_new_tokens": room, "stopping_criteria": StoppingCriteriaList([self._interrupt])},
        )
        try:
            while self._session.is_active:
                self._session.tick()
                for event in self._session.events():
                    yield from _decode(event, stream)
            yield from filter(len, stream.finish())
            row = self._session.row(self._slot)
            if streams_speech or self.processor.codec is None:
                reply = stream.reply(row.segments, row.finish_reason)
            else:
                reply = self.processor.decode_reply({"segments": [row.segments], "finish_reason": [row.finish_reason]})
                yield from filter(len, [reply.audio])
        except BaseException:
            self._drop_cache()
            raise
        self._first, self.reply, self.num_forward_passes = first, reply, row.num_forward_passes
        # Interrupted before its first word, it is no turn to go on from.
        if reply.segments:
            self.messages += [turn, {"role": "assistant", "content": reply.segments}]

    def interrupt(self) -> None:
        """Ends the reply after the current forward, from any thread; what has been said stays in the dialogue."""
        self._interrupt.event.set()

    def forget(self) -> None:
        """Lets the model see nothing of what has been said."""
        self._first = len(self.messages)

    def clear(self) -> None:
        """Starts anew."""
        self.messages, self.reply, self._first = [], None, 0

    def _with_codes(self, content: str | list[dict[str, Any]]) -> str | list[Mapping[str, Any]]:
        """Content with its recordings encoded, which would otherwise be done again at every turn."""
        if isinstance(content, str):
            return content
        return [self._encoded(plain_item(item)) for item in content]

    def _encoded(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        source: Any = next((item[key] for key in AUDIO_KEYS if item.get(key) is not None), None)
        codec = self.processor.codec
        if item.get("type") != "audio" or item.get("codes") is not None or source is None or codec is None:
            return item  # what is malformed is refused with the prompt
        waveform = self.processor.load_recording(source, item.get("sampling_rate"), self.access)
        # Before the codec runs, which would take long on a recording that is refused anyway; a frame is a token.
        seconds = len(waveform) / codec.config.sampling_rate
        if seconds * codec.config.frame_rate >= self._limit:
            raise ValueError(
                f"The recording is too long: {seconds:.0f} s, and at most "
                f"{self._limit / codec.config.frame_rate:.0f} s fit into the model's context. Cut it."
            )
        (codes,) = self.processor.encode_audio([waveform])
        return {"type": "audio", "codes": codes}

    @property
    def _limit(self) -> int:
        return self.model.config.get_text_config().max_position_embeddings

    def _prompt(self, turn: Message, wanted: int | None) -> tuple[int, list[int], int]:
        """Ids of the prompt, with as many of the last turns as leave room for a reply.

        Returns:
            Index of the first message that the model sees, the ids, and the number of new tokens that may follow.
        """
        wanted = wanted or self.model.generation_config.max_new_tokens or self._limit
        room = min(wanted, self._limit // 2)
        shown = len(self.messages) if self.turns is None else 2 * self.turns
        first = max(self._first, len(self.messages) - shown)
        while True:
            system = [{"role": "system", "content": self.system}] if self.system else []
            ids = self.processor.apply_chat_template(
                [*system, *self.messages[first:], turn],
                task=self.task,
                add_generation_prompt=True,
                return_tensors=None,
                access=self.access,
            )["input_ids"][0]
            if len(ids) + room <= self._limit or first == len(self.messages):
                break
            first += 2
        if len(ids) >= self._limit:
            raise ValueError(
                f"The turn is too long: {len(ids)} tokens, and the model reads less than {self._limit}. Shorten it."
            )
        return first, ids, min(wanted, self._limit - len(ids))

    def _drop_cache(self) -> None:
        if self._slot is not None:
            (self._session.cancel if self._session.is_active else self._session.release)(self._slot)
            self._session.events()
            self._slot = None


def _decode(event: SessionEvent, stream: ReplyStream) -> Iterator[str | np.ndarray]:
    """What an event adds to the reply; empty pieces are left out."""
    if event.error is not None:
        raise event.error
    if event.kind == "text":
        piece: str | np.ndarray = stream.text(event.token_ids)
    elif event.kind == "block":
        piece = stream.speech(stream.codes(event.token_ids))
    else:
        return
    if len(piece):
        yield piece
