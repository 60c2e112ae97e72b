"""Following and interrupting a generation."""

import threading
from collections.abc import Callable
from queue import Empty
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, StoppingCriteriaList, TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

from ttt_hf.modeling import TtTForConditionalGeneration
from ttt_hf.modeling.decoding_ttt import AudioSegment, TextSegment
from ttt_hf.modeling.generation_ttt import TtTGenerateOutput
from ttt_hf.modeling.streamers_ttt import InterruptCriteria, StreamEvent, TtTIteratorStreamer, TtTStreamer


# A small model whose reply to this prompt is text, a span of three blocks, text, another span (see tiny_config).
PROMPT = torch.tensor([[12, 7, 33, 20, 5, 9]])
BEGINS, ENDS, MASK = [36, 37], [58, 59], 57
KEYS: dict[str, Any] = {
    "max_new_tokens": 50,
    "audio_steps_per_block": 3,
    "audio_max_span_length": 10,
    "suppress_tokens": [0, 1],
    "return_dict_in_generate": True,
}


class Recorder(TtTStreamer):
    """Keeps everything in the order in which it comes."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.raw: list[torch.Tensor] = []

    def put(self, value: torch.Tensor) -> None:
        self.raw.append(value)

    def put_text(self, token_ids: list[int]) -> None:
        self.events.append(("text", token_ids))

    def put_draft(self, token_ids: list[int], confidences: list[float]) -> None:
        self.events.append(("draft", token_ids, confidences))

    def put_block(self, token_ids: list[int]) -> None:
        self.events.append(("block", token_ids))

    def end_span(self, complete: bool) -> None:
        self.events.append(("span_end", complete))

    def end(self) -> None:
        self.events.append(("end",))


class PlainStreamer(BaseStreamer):
    """What transformers asks of a streamer, no more."""

    def __init__(self) -> None:
        self.chunks: list[torch.Tensor] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.chunks.append(value)

    def end(self) -> None:
        self.ended += 1


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., TtTForConditionalGeneration]) -> TtTForConditionalGeneration:
    return tiny_model("qwen2")


@pytest.fixture(scope="module")
def reply(model: TtTForConditionalGeneration) -> TtTGenerateOutput:
    out = model.generate(PROMPT, **KEYS)
    assert {type(segment) for segment in out.segments[0]} == {TextSegment, AudioSegment}
    return out


def test_events_tell_text_drafts_blocks_and_span_ends_in_order(
    model: TtTForConditionalGeneration, reply: TtTGenerateOutput
) -> None:
    recorder = Recorder()
    out = model.generate(PROMPT, streamer=recorder, **KEYS)
    assert torch.equal(out.sequences, reply.sequences)

    told: list[Any] = []
    drafts: list[list[int]] = []
    for kind, *rest in recorder.events[:-1]:
        if kind == "text":
            if not told or not isinstance(told[-1], list):
                told.append([])
            told[-1] += rest[0]
        elif kind == "draft":
            # A draft keeps what the one before had committed, and adds to it.
            if drafts:
                assert all(new == old for old, new in zip(drafts[-1], rest[0]) if old != MASK)
                assert rest[0].count(MASK) < drafts[-1].count(MASK)
            assert len(rest[1]) == len(rest[0]) and all(0 < confidence <= 1 for confidence in rest[1])
            drafts.append(rest[0])
        elif kind == "block":
            assert MASK not in rest[0]
            assert len(drafts) == min(3, len(drafts[-1]))
            assert drafts[-1][: len(rest[0]) - 1] == rest[0][:-1]
            drafts = []
            if not told or not isinstance(told[-1], dict) or "complete" in told[-1]:
                told.append({"codes": []})
            told[-1]["codes"] += [token - 41 for token in rest[0] if token not in ENDS]
        else:
            told[-1]["complete"] = rest[0]
    assert recorder.events[-1] == ("end",)
    assert told == [
        segment.token_ids
        if isinstance(segment, TextSegment)
        else {"codes": segment.codes.tolist(), "complete": segment.complete}
        for segment in reply.segments[0]
    ]
    # The raw feed is the sequence, prompt first.
    assert torch.equal(recorder.raw[0], PROMPT)
    assert torch.equal(torch.cat([recorder.raw[0][0], *recorder.raw[1:]]), reply.sequences[0])


def test_streamers_of_transformers_get_the_committed_tokens(
    model: TtTForConditionalGeneration, reply: TtTGenerateOutput
) -> None:
    plain = PlainStreamer()
    model.generate(PROMPT, streamer=plain, **KEYS)
    assert torch.equal(torch.cat([chunk.flatten() for chunk in plain.chunks]), reply.sequences[0])
    assert plain.ended == 1


@pytest.mark.parametrize("skip_prompt", [False, True])
def test_text_streamers_of_transformers_print_text_and_no_audio(
    model: TtTForConditionalGeneration, reply: TtTGenerateOutput, skip_prompt: bool
) -> None:
    words = WordLevel({f"w{index:02d}": index for index in range(64)}, unk_token="w00")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=skip_prompt)
    # Audio in the prompt, and in the reply.
    prompt = torch.tensor([[36, 41, 45, 58, *PROMPT[0].tolist()]])
    out = model.generate(prompt, streamer=streamer, **KEYS)
    ids = out.sequences[0, prompt.shape[1] * skip_prompt :].tolist()
    assert max(ids) > 40
    assert "".join(streamer).split() == [f"w{token:02d}" for token in ids if token < 40]
    with pytest.raises(ValueError, match="batch size 1"):
        model.generate(PROMPT.repeat(2, 1), streamer=TextIteratorStreamer(tokenizer), **KEYS)


def test_a_streamer_follows_one_row_only(model: TtTForConditionalGeneration) -> None:
    for streamer in (Recorder(), PlainStreamer()):
        with pytest.raises(ValueError, match="A streamer follows one row, got 2"):
            model.generate(PROMPT.repeat(2, 1), streamer=streamer, **KEYS)


def test_events_can_be_iterated_over_while_another_thread_generates(
    model: TtTForConditionalGeneration, reply: TtTGenerateOutput
) -> None:
    streamer = TtTIteratorStreamer(drafts=False, timeout=300)
    thread = threading.Thread(target=model.generate, args=(PROMPT,), kwargs={"streamer": streamer, **KEYS})
    thread.start()
    events = list(streamer)
    thread.join()
    recorder = Recorder()
    model.generate(PROMPT, streamer=recorder, **KEYS)
    expected = [
        StreamEvent("span_end", complete=event[1])
        if event[0] == "span_end"
        else StreamEvent(event[0], tuple(event[1]))
        for event in recorder.events
        if event[0] not in ("draft", "end")
    ]
    assert events == expected


def test_iteration_ends_with_the_error_of_the_generating_thread() -> None:
    streamer = TtTIteratorStreamer(timeout=0.01)
    streamer.put_text([3])
    streamer.put_draft([MASK], [0.5])
    streamer.fail(RuntimeError("out of memory"))
    events = iter(streamer)
    assert [next(events).kind, next(events).kind] == ["text", "draft"]
    with pytest.raises(RuntimeError, match="out of memory"):
        next(events)
    with pytest.raises(Empty):
        next(iter(streamer))


class InterruptAtDraft(Recorder):
    """Asks another thread to interrupt at the n-th draft, and waits until it has."""

    def __init__(self, interrupt: InterruptCriteria, draft: int):
        super().__init__()
        self.interrupt = interrupt
        self.draft = draft

    def put_draft(self, token_ids: list[int], confidences: list[float]) -> None:
        super().put_draft(token_ids, confidences)
        if [event[0] for event in self.events].count("draft") == self.draft:
            thread = threading.Thread(target=self.interrupt.event.set)
            thread.start()
            thread.join()


def test_an_interruption_drops_the_unfinished_block(
    model: TtTForConditionalGeneration, reply: TtTGenerateOutput
) -> None:
    interrupt = InterruptCriteria()
    # Three drafts a block: the first draft of the second block.
    streamer = InterruptAtDraft(interrupt, draft=4)
    criteria = StoppingCriteriaList([interrupt])
    out = model.generate(PROMPT, streamer=streamer, stopping_criteria=criteria, **KEYS)
    kinds = [event[0] for event in streamer.events if event[0] != "text"]
    assert kinds == ["draft", "draft", "draft", "block", "draft", "span_end", "end"]
    assert streamer.events[-2] == ("span_end", False)

    ids = out.sequences[0].tolist()
    assert ids == reply.sequences[0, : len(ids)].tolist()
    assert MASK not in ids
    whole = next(segment for segment in reply.segments[0] if isinstance(segment, AudioSegment))
    cut = out.segments[0][-1]
    assert isinstance(cut, AudioSegment)
    assert not cut.complete
    assert cut.codes.tolist() == whole.codes[:4].tolist()
    # The criterion stays triggered: the next generation ends after its first forward, too.
    again = model.generate(PROMPT, stopping_criteria=criteria, **KEYS)
    assert again.num_forward_passes.tolist() == [1]
    interrupt.event.clear()
    assert torch.equal(model.generate(PROMPT, stopping_criteria=criteria, **KEYS).sequences, reply.sequences)


def test_an_interruption_in_text_keeps_the_text(model: TtTForConditionalGeneration, reply: TtTGenerateOutput) -> None:
    interrupt = InterruptCriteria(threading.Event())

    class InterruptAtText(TtTStreamer):
        def put_text(self, token_ids: list[int]) -> None:
            interrupt.event.set()

    criteria = StoppingCriteriaList([interrupt])
    out = model.generate(PROMPT, streamer=InterruptAtText(), stopping_criteria=criteria, **KEYS)
    assert torch.equal(out.sequences, reply.sequences[:, : PROMPT.shape[1] + 1])
    assert out.segments[0] == [TextSegment([int(reply.sequences[0, PROMPT.shape[1]])])]
