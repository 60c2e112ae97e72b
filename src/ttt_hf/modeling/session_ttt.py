"""The decoding session: rows that come and go, in text or at any denoising step, served by the same forwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import CompileConfig
from transformers.generation.stopping_criteria import StoppingCriteriaList, StopStringCriteria

from .cache_ttt import RaggedCache
from .compiled_ttt import StaticDecoder, keep_cache
from .decoding_ttt import DecodingRow, FinishReason
from .settings_ttt import check_cache_implementation
from .step_ttt import Choice, finish_step, start_step
from .streamers_ttt import EventStreamer, StreamEvent, TtTStreamer


if TYPE_CHECKING:
    from .modeling_ttt import TtTForConditionalGeneration


@dataclass(frozen=True)
class SessionEvent:
    """What has happened to a row of a session.

    Attributes:
        slot: The row's slot.
        kind: `"text"`, `"draft"`, `"block"` and `"span_end"` as in `StreamEvent`, and at last `"end"`.
        token_ids: Ids of the event; empty for `"span_end"` and `"end"`.
        complete: For `"span_end"` whether the span ended with an end marker.
        finish_reason: For `"end"` why the row ended, see `TtTGenerateOutput`; `"error"` if it failed.
        error: For `"end"` what made it fail, if anything has.
        confidences: For `"draft"` the probability of the token proposed at every position.
    """

    slot: int
    kind: Literal["text", "draft", "block", "span_end", "end"]
    token_ids: tuple[int, ...] = ()
    complete: bool | None = None
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    confidences: tuple[float, ...] = ()


class DecodingSession:
    """Decodes rows that may be admitted, cancelled and continued at any time.

    `generate()` admits all its rows and ticks until they have ended; a server admits rows while others run. What comes
    of a row does not depend on when it was admitted, nor on the others.

    A row that fails (its logits are not finite, or its logits processors or stopping criteria raise an error) ends
    with the error in its last event, and leaves the others alone.

    The cache has a fixed number of slots. Rows that run are its first ones, so that a forward reads and writes views
    of it. A row that has ended holds its slot until it is released.

    Args:
        model: The `TtTForConditionalGeneration`.
        slots: Number of rows that can be held at the same time.
        capacity: Number of positions of each slot: prompt and reply, with all earlier turns. By default the cache
            grows, and is copied, when a longer row is admitted.
        cache_implementation: `"static"` for forwards of fixed shapes, which are compiled on a GPU.
        compile_config: For `torch.compile`, with `cache_implementation="static"`; as in transformers' `generate()`.
        disable_compile: Whether fixed shapes are not compiled.

    Raises:
        ValueError: If `cache_implementation` is neither `None` nor `"static"`, or static without a capacity.

    Example:
        ```python
        session = DecodingSession(model, slots=8, capacity=2048)
        slot = session.admit(prompt, max_new_tokens=200)
        while session.is_active:
            session.tick()
            for event in session.events():
                print(event.slot, event.kind, event.token_ids)
        print(session.row(slot).segments)
        session.release(slot)
        ```
    """

    def __init__(
        self,
        model: "TtTForConditionalGeneration",
        slots: int,
        capacity: int | None = None,
        cache_implementation: str | None = None,
        compile_config: CompileConfig | None = None,
        disable_compile: bool | None = None,
    ) -> None:
        check_cache_implementation(cache_implementation)
        self.model = model
        self.capacity = capacity
        self.cache = RaggedCache(slots, capacity or 0)
        # A GPU computes some positions more in the time that another forward takes to start.
        self._saves_positions = model.device.type == "cpu"
        self._static: StaticDecoder | None = None
        if cache_implementation == "static":
            if capacity is None:
                raise ValueError("A session with cache_implementation='static' cannot grow: give it a capacity.")
            self._static = StaticDecoder(model, slots, capacity, compile_config, bool(disable_compile))
            self.cache = self._static.cache
        # The slot that each row of the cache belongs to, or None: first the running ones, then others in any order.
        self._slots: list[int | None] = [None] * slots
        self._num_active = 0
        self._rows: dict[int, DecodingRow] = {}
        self._keeps_cache: set[int] = set()
        self._events: list[SessionEvent] = []

    @property
    def is_active(self) -> bool:
        """Whether a row is being decoded."""
        return self._num_active > 0

    @property
    def num_free(self) -> int:
        """Number of slots that are free."""
        return self._slots.count(None)

    # -- rows come and go ---------------------------------------------------------------------------------------------

    def admit(
        self,
        prompt: Sequence[int] | torch.Tensor,
        slot: int | None = None,
        keep_cache: bool = False,
        **generation: Any,
    ) -> int:
        """Admits a row; its decoding starts at the next tick.

        Args:
            prompt: Ids of the prompt, without padding: a list, or `torch.long` of shape `(length,)` or `(1, length)`.
            slot: A slot whose row has ended and was not released, to go on with the row's cache: what the new prompt
                begins with is not computed again, so that a turn of a dialogue costs its own tokens only.
            keep_cache: Whether the slot keeps its cache when the row has ended, for the next turn.
            **generation: Arguments of `generate()`, such as `max_new_tokens` and `seed`.

        Returns:
            The slot.

        Raises:
            ValueError: If no slot is free, the prompt does not fit into one, `slot` has not ended, or an argument
                cannot be used.
        """
        if slot is not None:
            self._check_ended(slot)
        number = self._free_slot() if slot is None else slot
        streamer = EventStreamer(partial(self._receive, number))
        row = prepare_row(self.model, prompt, self.capacity, streamer, **generation)
        if slot is None:
            return self.add(row, keep_cache)
        index = self._slots.index(slot)
        config = self.model.config
        self.cache.truncate(index, common_length(self._rows[slot].ids, row.ids, config.audio_token_start_id))
        self._swap(index, self._num_active)
        return self._start(slot, row, keep_cache)

    def add(self, row: DecodingRow, keep_cache: bool = False) -> int:
        """Admits a row of `prepare_row`; returns its slot.

        Of its events only `"end"` is the session's, the others are those of its streamer.

        Raises:
            ValueError: If no slot is free, or the row needs more positions than a slot has.
        """
        slot = self._free_slot()
        self._swap(self._slots.index(None), self._num_active)
        return self._start(slot, row, keep_cache)

    def cancel(self, slot: int) -> None:
        """Ends a running row at once, with the reason `"interrupted"`, and frees its slot.

        Raises:
            ValueError: If the slot does not run.
        """
        if slot not in self._slots[: self._num_active]:
            raise ValueError(f"Slot {slot} does not run: it runs from admit() to its event 'end'.")
        self._rows[slot].stop("interrupted")
        self._end(slot)
        self.release(slot)

    def release(self, slot: int) -> None:
        """Frees a slot whose row has ended.

        Raises:
            ValueError: If the slot runs or is free.
        """
        self._check_ended(slot)
        index = self._slots.index(slot)
        self.cache.truncate(index, 0)
        self._slots[index] = None
        del self._rows[slot]

    def row(self, slot: int) -> DecodingRow:
        """The row of a slot, with its `ids`, `segments`, `num_forward_passes` and `finish_reason` so far.

        Raises:
            ValueError: If the slot is free.
        """
        if slot not in self._rows:
            raise ValueError(f"Slot {slot} is free.")
        return self._rows[slot]

    def events(self) -> list[SessionEvent]:
        """Returns what has happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Ends the session. Memory of fixed shapes is kept for the model's next session of the same size."""
        if self._static is not None:
            keep_cache(self.model, self._static.cache)

    # -- one step of all rows -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def tick(self) -> None:
        """Makes a text token or a denoising step of every running row (step 2 of `generate()`)."""
        if self._static is None:
            self._arrange()
        slots = [slot for slot in self._slots[: self._num_active] if slot is not None]
        rows = [self._rows[slot] for slot in slots]
        finish_step(self._static.start_step(rows) if self._static else self._start_step(rows))
        # 2.f Final keys are not computed again; without `use_cache` every forward starts at the first token
        self.cache.commit([row.final_length if row.context.use_cache else 0 for row in rows])
        # 2.g Rows that a criterion stops or that are finished leave the batch
        for slot, row in zip(slots, rows):
            try:
                row.check_criteria()
            except Exception as error:
                row.fail(error)
            if row.is_finished:
                self._end(slot)

    def _start_step(self, rows: Sequence[DecodingRow]) -> list[Choice]:
        """Starts the forwards of the running rows."""
        choices = []
        for first, last in self._forwards():
            choices += start_step(self.model, rows[first:last], self.cache, first)
        return choices

    def _forwards(self) -> list[tuple[int, int]]:
        """Divides the running rows into forwards, as rows of a forward are padded to the longest one.

        Rows that have just come are apart: a row in text would cost as much as a prompt. On a CPU, where a position
        costs as much as a fraction of a forward, rows in text are apart from rows in a span, too.
        """
        kinds = [self._kind(index) for index in range(self._num_active)]
        bounds = [index for index in range(1, len(kinds)) if kinds[index] != kinds[index - 1]]
        return list(pairwise([0, *bounds, self._num_active]))

    def _arrange(self) -> None:
        """Brings together the rows that go through a forward together; each changes its place a few times at most."""
        low, index, high = 0, 0, self._num_active - 1
        # The rows of the middle kind are where those of the others are not.
        while index <= high:
            kind = self._kind(index)
            if kind == _Kind.SHORT:
                self._swap(low, index)
                low += 1
            if kind == _Kind.NEW:
                self._swap(index, high)
                high -= 1
            else:
                index += 1

    def _kind(self, index: int) -> "_Kind":
        """Which forward a running row goes through."""
        if self.cache.lengths[index] == 0:
            return _Kind.NEW
        slot = self._slots[index]
        is_span = slot is not None and bool(self._rows[slot].canvas)
        return _Kind.LONG if is_span or not self._saves_positions else _Kind.SHORT

    def _receive(self, slot: int, event: StreamEvent) -> None:
        self._events.append(
            SessionEvent(slot, event.kind, event.token_ids, event.complete, confidences=event.confidences)
        )

    def _start(self, slot: int, row: DecodingRow, keep_cache: bool) -> int:
        """Gives the first row of the cache that does not run to a slot."""
        if self.capacity is None:
            self.cache.grow(row.capacity)
        elif row.capacity > self.capacity:
            raise ValueError(
                f"The row needs {row.capacity} positions, and the slots of this session have {self.capacity}."
            )
        self._slots[self._num_active] = slot
        self._rows[slot] = row
        (self._keeps_cache.add if keep_cache else self._keeps_cache.discard)(slot)
        self._num_active += 1
        return slot

    def _end(self, slot: int) -> None:
        """Takes a row out of the running ones."""
        index, row = self._slots.index(slot), self._rows[slot]
        if row.error is not None:
            # Zero times a masked value that is not finite is not zero: the next row in this place would fail, too.
            self.cache.erase(index)
        if slot not in self._keeps_cache:
            self.cache.truncate(index, 0)
        self._num_active -= 1
        # The last running row fills the gap: no other row moves, and of this one only what it has committed.
        self._swap(index, self._num_active)
        self._events.append(SessionEvent(slot, "end", finish_reason=row.finish_reason, error=row.error))

    def _swap(self, one: int, other: int) -> None:
        """Swaps two rows of the cache; what is free is not copied."""
        if one == other:
            return
        self.cache.swap(one, other)
        self._slots[one], self._slots[other] = self._slots[other], self._slots[one]

    def _free_slot(self) -> int:
        free = next((slot for slot in range(len(self._slots)) if slot not in self._rows), None)
        if free is None:
            raise ValueError(f"All {len(self._slots)} slots are in use: release one first.")
        return free

    def _check_ended(self, slot: int) -> None:
        if slot not in self._slots[self._num_active :]:
            raise ValueError(f"Slot {slot} holds no row that has ended.")


class _Kind(IntEnum):
    """Rows of similar length."""

    SHORT = 0  # in text
    LONG = 1  # in a span
    NEW = 2  # with their prompt


def prepare_row(
    model: "TtTForConditionalGeneration",
    prompt: Sequence[int] | torch.Tensor,
    capacity: int | None = None,
    streamer: TtTStreamer | None = None,
    **generation: Any,
) -> DecodingRow:
    """Prepares a row: all of `generate()` but its loop, so that arguments are checked and completed as there.

    It may run in another thread than the session.

    Args:
        model: The `TtTForConditionalGeneration`.
        prompt: Ids of the prompt, without padding: a list, or `torch.long` of shape `(length,)` or `(1, length)`.
        capacity: Number of positions that prompt and reply may have together, if that is limited.
        streamer: Receives the row's events.
        **generation: Arguments of `generate()`.

    Returns:
        The row, for `DecodingSession.add`; it needs `row.capacity` positions.

    Raises:
        ValueError: If the prompt leaves no room for a reply, or an argument cannot be used.
    """
    for name in ("cache_implementation", "compile_config", "disable_compile"):
        if generation.get(name) is not None:
            raise ValueError(f"{name} is the same for all rows of a session: give it to DecodingSession.")
    # Offloaded weights are nowhere until they are needed.
    device = model.device if model.device.type != "meta" else torch.device("cpu")
    ids = torch.as_tensor(prompt, dtype=torch.long).reshape(1, -1).to(device)
    if generation.get("stop_strings") and generation.get("tokenizer") is not None:
        # With a function in the place of its loop, `generate()` loses the tokenizer that they need.
        stop = StopStringCriteria(generation.pop("tokenizer"), generation.pop("stop_strings"))
        generation["stopping_criteria"] = StoppingCriteriaList([*generation.get("stopping_criteria", ()), stop])
    make_rows = partial(type(model).make_rows, streamer=streamer, capacity=capacity)
    (row,) = model.generate(ids, attention_mask=torch.ones_like(ids), custom_generate=make_rows, **generation)
    return row


def common_length(old_ids: Sequence[int], new_ids: Sequence[int], audio_token_start_id: int) -> int:
    """Number of leading ids whose keys are the same in two rows.

    An audio token attends to its whole run, so that its keys are the same only if the run ends in both rows where they
    are still equal.

    Args:
        old_ids: Ids of a row.
        new_ids: Ids of the row that is to go on with its keys.
        audio_token_start_id: First audio id.

    Returns:
        The number, smaller than that of the new ids: the last one's logits are needed.
    """
    longest = min(len(old_ids), len(new_ids) - 1)
    length = next((index for index in range(longest) if old_ids[index] != new_ids[index]), longest)
    ends_in_both = all(length < len(ids) and ids[length] < audio_token_start_id for ids in (old_ids, new_ids))
    while length > 0 and not ends_in_both and new_ids[length - 1] >= audio_token_start_id:
        length -= 1
    return length


__all__ = ["DecodingSession", "SessionEvent", "prepare_row"]
