"""The engine: many requests at a time, each as if it were alone."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

from fixed_reply import tone
from ttt_hf.codecs import RowwiseCodec
from ttt_hf.processing.fetching import USER
from ttt_hf.serving import (
    Audio,
    Codes,
    Draft,
    End,
    Engine,
    EngineClosedError,
    Event,
    Generation,
    Limits,
    Monitor,
    OverloadedError,
    Text,
)


Loaded = tuple[Any, Any]
QUESTION = Path(__file__).resolve().parents[2] / "examples" / "question.wav"
HELLO = [{"role": "user", "content": "Hello."}]


def user(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def run(work: Callable[[Engine], Coroutine[Any, Any, Any]], loaded: Loaded, **limits: Any) -> Any:
    """Runs something with an engine."""

    async def main() -> Any:
        with Engine(*loaded, Limits(**limits)) as engine:
            return await asyncio.wait_for(work(engine), timeout=120)

    return asyncio.run(main())


async def events_of(generation: Generation) -> list[Event]:
    return [event async for event in generation]


def alone(loaded: Loaded, messages: list[Any], task: str | None, **settings: Any) -> Any:
    """The output of `generate()` for one conversation."""
    model, processor = loaded
    inputs = processor.apply_chat_template(messages, task=task, add_generation_prompt=True)
    return model.generate(**inputs, return_dict_in_generate=True, **settings)


def mixed_requests(count: int) -> list[tuple[list[Any], str, dict[str, Any]]]:
    """Text, speech and transcription, greedy and sampled, with settings of their own."""
    text = ["What is two plus three?", "Say hello.", "What colour is the sky?", "How many days has a week?"]
    recording = QUESTION.read_bytes()
    requests: list[tuple[list[Any], str, dict[str, Any]]] = []
    for index in range(count):
        question = {"type": "text", "text": text[index // 4 % 4]}
        audio = {"type": "audio", "bytes": recording}
        content, task = [(question, "chat"), (question, "text"), (audio, "asr"), (question, "tts")][index % 4]
        settings: dict[str, Any] = {"max_new_tokens": 24 + index}
        if index % 3 == 1:
            settings |= {"do_sample": True, "temperature": 1.2, "audio_temperature": 0.7, "seed": index}
        if index % 5 == 2:
            settings |= {"audio_steps_per_block": 6, "audio_entropy_bound": 4.0, "repetition_penalty": 1.1}
        settings.setdefault("seed", 0)
        requests.append((user(content), task, settings))
    return requests


def test_requests_that_join_at_any_time_get_the_ids_of_generate(embedded: Loaded) -> None:
    requests = mixed_requests(32)

    async def work(engine: Engine) -> list[End]:
        async def one(index: int) -> End:
            messages, task, settings = requests[index]
            await asyncio.sleep(0.03 * index)
            return await engine.submit(messages, task, **settings).reply()

        return await asyncio.gather(*map(one, range(32)))

    ends = run(work, embedded, slots=6)
    for (messages, task, settings), end in zip(requests, ends, strict=True):
        output = alone(embedded, messages, task, **settings)
        assert [*end.prompt_ids, *end.token_ids] == output.sequences[0].tolist()
        assert end.num_forward_passes == int(output.num_forward_passes[0])
        assert end.reply.finish_reason == output.finish_reason[0]


def test_events_hold_the_reply(embedded: Loaded) -> None:
    messages = user({"type": "text", "text": "What is two plus three?"})
    events = run(lambda engine: events_of(engine.submit(messages, drafts=True, seed=0)), embedded)
    end = events[-1]
    reply = embedded[1].decode_reply(alone(embedded, messages, None, seed=0))
    assert isinstance(end, End) and end.reply.text == reply.text
    assert "".join(event.text for event in events if isinstance(event, Text)).strip() == reply.text
    pieces = [event.samples for event in events if isinstance(event, Audio)]
    assert len(pieces) > 1
    np.testing.assert_allclose(np.concatenate(pieces), reply.audio, atol=1e-4)
    np.testing.assert_array_equal(np.concatenate(pieces), end.reply.audio)
    codes = [code for event in events if isinstance(event, Codes) for code in event.codes]
    assert codes == [code for item in reply.segments if item["type"] == "audio" for code in item["codes"].tolist()]
    mask = embedded[0].config.mask_token_id
    drafts = [event.token_ids for event in events if isinstance(event, Draft)]
    assert any(mask in draft for draft in drafts) and drafts[0].count(mask) > drafts[1].count(mask)
    assert all(len(event.confidences) == len(event.token_ids) for event in events if isinstance(event, Draft))
    assert end.reply.sampling_rate == reply.sampling_rate == embedded[1].codec.config.sampling_rate


def test_without_speech_only_text_comes(fixed: Loaded) -> None:
    events = run(lambda engine: events_of(engine.submit(HELLO, speech=False)), fixed)
    assert {type(event) for event in events} == {Text, End}
    assert events[-1].reply.text == "Hi." and len(events[-1].reply.audio) == 0


class Slow:
    """Makes the forwards of a model slow and notes how many rows they have."""

    def __init__(self, model: Any, seconds: float = 0.02) -> None:
        self.rows: list[int] = []
        self.seconds = seconds
        model.register_forward_pre_hook(self._wait, with_kwargs=True)

    def _wait(self, _: Any, args: Any, kwargs: Any) -> None:
        self.rows.append(len(kwargs["input_ids"]))
        time.sleep(self.seconds)


def test_a_cancelled_request_frees_its_slot_and_leaves_the_others_alone(fixed: Loaded) -> None:
    Slow(fixed[0])

    async def work(engine: Engine) -> tuple[list[Event], End, End]:
        first, second, third = (engine.submit(HELLO) for _ in range(3))
        while (engine.num_running, engine.num_waiting) != (2, 1):
            await asyncio.sleep(0.001)
        first.cancel()
        rest = await events_of(first)
        # The third one has waited for the slot of the first.
        return rest, await second.reply(), await third.reply()

    rest, second, third = run(work, fixed, slots=2)
    assert not any(isinstance(event, End) for event in rest)
    assert second.token_ids == third.token_ids and second.reply.text == "Hi."


def test_leaving_the_block_cancels(fixed: Loaded) -> None:
    Slow(fixed[0])

    async def work(engine: Engine) -> None:
        async with engine.submit(HELLO) as generation:
            await anext(generation)
        while engine.num_running:
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await generation.reply()

    run(work, fixed)


def test_requests_wait_in_their_order_and_a_full_queue_refuses(fixed: Loaded) -> None:
    Slow(fixed[0], 0.01)

    async def work(engine: Engine) -> list[int]:
        order: list[int] = []

        async def one(number: int, generation: Generation) -> None:
            await generation.reply()
            order.append(number)

        running = engine.submit(HELLO)
        await anext(running)
        waiting = [engine.submit(HELLO) for _ in range(3)]
        with pytest.raises(OverloadedError, match="3 requests are waiting") as raised:
            engine.submit(HELLO)
        assert raised.value.retry_after >= 1
        await asyncio.gather(*(one(number, generation) for number, generation in enumerate(waiting)))
        await running.reply()
        await engine.submit(HELLO).reply()
        return order

    assert run(work, fixed, slots=1, queue=3) == [0, 1, 2]


def test_a_request_does_not_wait_for_ever(fixed: Loaded) -> None:
    Slow(fixed[0])

    async def work(engine: Engine) -> None:
        running, waiting = engine.submit(HELLO), engine.submit(HELLO)
        with pytest.raises(OverloadedError, match=r"no room .* within 0\.1 s"):
            await waiting.reply()
        assert (await running.reply()).reply.text == "Hi."

    run(work, fixed, slots=1, wait_seconds=0.1)


class Fails:
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"messages": [{"role": "user"}]}, ValueError, "A message needs 'content'"),
        ({"messages": user({"type": "audio", "bytes": b"no audio"})}, ValueError, "not audio that can be read"),
        ({"messages": user({"type": "audio", "path": str(QUESTION)})}, PermissionError, "on this machine"),
        ({"messages": user({"type": "audio", "url": "http://example.org/a.wav"})}, PermissionError, "not fetched"),
        ({"messages": HELLO, "max_new_tokens": 0}, ValueError, "max_new_tokens"),
        ({"messages": HELLO, "audio_steps_per_block": "many"}, ValueError, "audio_steps_per_block"),
        ({"messages": user({"type": "text", "text": "x" * 999})}, ValueError, "leaves no room"),
        ({"messages": HELLO, "logits_processor": LogitsProcessorList([Fails()])}, ZeroDivisionError, None),
    ],
)
def test_a_request_that_fails_leaves_the_others_alone(
    arguments: dict[str, Any], error: type[Exception], message: str | None, fixed: Loaded
) -> None:
    async def work(engine: Engine) -> tuple[End, End]:
        before, bad, after = engine.submit(HELLO), engine.submit(**arguments), engine.submit(HELLO)
        with pytest.raises(error, match=message):
            await bad.reply()
        assert await events_of(bad) == []
        return await before.reply(), await after.reply()

    before, after = run(work, fixed)
    assert before.token_ids == after.token_ids and before.reply.text == "Hi."


def test_recordings_and_replies_have_a_limit(fixed: Loaded) -> None:
    recording = {"type": "audio", "audio": tone(2.0, 16_000), "sampling_rate": 16_000}

    async def work(engine: Engine) -> End:
        with pytest.raises(ValueError, match="2 s long, and 1 s are allowed"):
            await engine.submit(user(recording), access=USER).reply()
        return await engine.submit(HELLO, max_new_tokens=100).reply()

    end = run(work, fixed, audio_seconds=1, new_tokens=6)
    assert len(end.token_ids) == 6 and end.reply.finish_reason == "length"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["cuda", "cpu"])
def test_out_of_memory_refuses_the_newest_requests(error: BaseException, fixed: Loaded) -> None:
    """One row is at its first step when four more come, which do not fit."""
    model = fixed[0]
    expected = alone(fixed, HELLO, None).sequences[0].tolist()
    rows: list[int] = []
    all_read = threading.Event()

    def check(_: Any, args: Any, kwargs: Any) -> None:
        all_read.wait()
        rows.append(len(kwargs["input_ids"]))
        if rows[-1] > 3:
            raise error

    async def work(engine: Engine) -> list[Any]:
        requests = [engine.submit(HELLO)]
        while not engine.num_running:
            await asyncio.sleep(0.01)
        requests += [engine.submit(HELLO) for _ in range(4)]
        while not all(request.row for request in requests):
            await asyncio.sleep(0.01)
        all_read.set()
        ends = await asyncio.gather(*(request.reply() for request in requests), return_exceptions=True)
        return [*ends, await engine.submit(HELLO).reply()]

    handle = model.register_forward_pre_hook(check, with_kwargs=True)
    ends = run(work, fixed)
    handle.remove()
    assert rows[:3] == [1, 1, 4] and max(rows[3:]) < 4
    refused = [end for end in ends if isinstance(end, OverloadedError)]
    assert len(refused) == 3 and all("memory" in str(end) for end in refused)
    assert [index for index, end in enumerate(ends) if isinstance(end, End)] == [0, 1, 5]
    assert all([*end.prompt_ids, *end.token_ids] == expected for end in ends if isinstance(end, End))


def test_an_error_of_a_whole_step_ends_its_requests_and_the_engine_goes_on(fixed: Loaded) -> None:
    handle = fixed[0].register_forward_pre_hook(lambda *_: 1 // 0)

    async def work(engine: Engine) -> End:
        for request in [engine.submit(HELLO), engine.submit(HELLO)]:
            with pytest.raises(ZeroDivisionError):
                await request.reply()
        handle.remove()
        return await engine.submit(HELLO).reply()

    assert run(work, fixed).reply.text == "Hi."


def test_an_error_of_the_codec_ends_its_request(fixed: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = fixed[1].codec._decode_checked
    failures = [RuntimeError("of the codec")]

    def fail_once(codes: torch.Tensor) -> torch.Tensor:
        if failures:
            raise failures.pop()
        return decode(codes)

    monkeypatch.setattr(fixed[1].codec, "_decode_checked", fail_once)

    async def work(engine: Engine) -> End:
        with pytest.raises(RuntimeError, match="of the codec"):
            await engine.submit(HELLO).reply()
        return await engine.submit(HELLO).reply()

    assert len(run(work, fixed).reply.audio) > 0


def test_an_error_of_the_codec_leaves_requests_that_it_decodes_with_alone(
    fixed: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, rows = fixed[1].codec._decode_checked, []

    def fail_together(codes: torch.Tensor) -> torch.Tensor:
        rows.append(len(codes))
        if len(codes) > 1:
            raise RuntimeError("of too many rows")
        return decode(codes)

    monkeypatch.setattr(fixed[1].codec, "_decode_checked", fail_together)

    async def work(engine: Engine) -> list[End]:
        # All but the first are ready before the second step, and end together.
        Slow(fixed[0], 0.1)
        return await asyncio.gather(*(engine.submit(HELLO).reply() for _ in range(8)))

    ends = run(work, fixed)
    assert max(rows) > 1
    assert all(len(end.reply.audio) > 0 for end in ends)


def test_speech_of_a_whole_reply_is_decoded_once(fixed: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, sizes = fixed[1].codec._decode_checked, []
    monkeypatch.setattr(
        fixed[1].codec, "_decode_checked", lambda codes: sizes.append(tuple(codes.shape)) or decode(codes)
    )

    async def work(engine: Engine) -> tuple[End, int, list[Any]]:
        end = await engine.submit(HELLO).reply()
        count = len(sizes)
        return end, count, [event async for event in engine.submit(HELLO)]

    end, count, events = run(work, fixed)
    assert count == 1
    # Piece by piece they are the same samples.
    pieces = [event.samples for event in events if isinstance(event, Audio)]
    assert np.allclose(np.concatenate(pieces), end.reply.audio, rtol=0, atol=1e-5)


def test_closing_finishes_what_runs_and_refuses_more(fixed: Loaded) -> None:
    Slow(fixed[0], 0.01)

    async def work() -> tuple[list[End], Engine]:
        engine = Engine(*fixed, Limits(slots=1))
        requests = [engine.submit(HELLO) for _ in range(2)]
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        while engine.is_open:
            await asyncio.sleep(0)
        with pytest.raises(EngineClosedError):
            engine.submit(HELLO)
        ends = [await request.reply() for request in requests]
        await closing
        return ends, engine

    ends, engine = asyncio.run(work())
    assert [end.reply.text for end in ends] == ["Hi.", "Hi."]
    assert not engine._decoder.is_alive()


def test_closing_does_not_wait_for_ever(fixed: Loaded) -> None:
    Slow(fixed[0], 0.05)

    async def work() -> None:
        engine = Engine(*fixed)
        request = engine.submit(HELLO)
        await anext(request)
        await asyncio.to_thread(engine.close, 0.01)
        with pytest.raises(EngineClosedError, match="before the reply was complete"):
            await request.reply()

    asyncio.run(work())


def test_a_codec_that_cannot_stream_is_refused_at_once(fixed: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(RowwiseCodec, "decode_stream")
    with pytest.raises(ValueError, match="cannot decode piece by piece"):
        Engine(*fixed)


def test_a_monitor_is_told_what_happens(fixed: Loaded) -> None:
    seen: dict[str, list[Any]] = {"waiting": [], "ticked": [], "first_audio": [], "ended": [], "failed": []}
    monitor = Monitor()
    for name, calls in seen.items():
        setattr(monitor, name, lambda *values, calls=calls: calls.append(values))

    async def work() -> None:
        with Engine(*fixed, monitor=monitor) as engine:
            await engine.submit(HELLO).reply()
            with pytest.raises(ValueError):
                await engine.submit([]).reply()

    asyncio.run(work())
    assert (1,) in seen["waiting"] and seen["waiting"][-1] == (0,)
    assert {rows for rows, _ in seen["ticked"]} == {1}
    assert [len(seen[name]) for name in ("first_audio", "ended", "failed")] == [1, 1, 1]
    assert isinstance(seen["failed"][0][0], ValueError)


@pytest.mark.parametrize("name", ["slots", "queue", "wait_seconds", "context", "new_tokens", "audio_seconds"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_are_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0"):
        Limits(**{name: value})
