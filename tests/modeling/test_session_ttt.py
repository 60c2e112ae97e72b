"""Decoding sessions: rows that come and go get the ids that `generate()` gives them alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from transformers import LogitsProcessorList, StoppingCriteriaList

from ttt_hf.modeling import AudioSegment, DecodingSession, TtTForConditionalGeneration, cache_ttt
from ttt_hf.modeling.session_ttt import common_length, prepare_row
from ttt_hf.modeling.streamers_ttt import EventStreamer


# The small models' ids, see tiny_config.
BEGINS, START = [36, 37], 40
TINY: dict[str, Any] = {"max_new_tokens": 40, "audio_steps_per_block": 3, "audio_max_span_length": 10}

Models = Callable[..., TtTForConditionalGeneration]


def random_requests(count: int, seed: int = 0) -> list[tuple[list[int], dict[str, Any]]]:
    """Prompts with settings of their own: limits, sampling of text and audio, steps, thresholds, guidance."""
    source = torch.Generator().manual_seed(seed)
    requests = []
    for index in range(count):
        length, limit = (int(torch.randint(low, high, (1,), generator=source)) for low, high in ((3, 12), (1, 50)))
        prompt = torch.randint(2, 36, (length,), generator=source).tolist()
        settings: dict[str, Any] = {**TINY, "max_new_tokens": limit}
        if index % 3 == 2:
            prompt[-1] = BEGINS[index % 2]
        if index % 4 == 1:
            settings |= {"do_sample": True, "temperature": 1.5, "audio_temperature": 0.8, "seed": index}
        if index % 5 == 3:
            settings |= {"audio_steps_per_block": 4, "audio_entropy_bound": 4.0, "repetition_penalty": 1.3}
        if index % 6 == 5:
            settings |= {"audio_steps_per_block": 5, "audio_confidence_threshold": 0.2}
        if index % 7 == 4:
            settings |= {"audio_cfg_scale": 0.5, "audio_remasking": "margin"}
        requests.append((prompt, settings))
    return requests


def alone(model: TtTForConditionalGeneration, prompt: list[int], **settings: Any) -> list[int]:
    """The ids of `generate()` for one prompt."""
    ids = torch.tensor([prompt])
    return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0].tolist()


def finish(session: DecodingSession) -> None:
    while session.is_active:
        session.tick()


@pytest.mark.parametrize("capacity", [64, None])
@pytest.mark.parametrize("attention", ["span", "block_causal"])
def test_rows_that_join_while_others_run_are_the_rows_alone(
    attention: str, capacity: int | None, tiny_model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So small that the cache grows several times where it has no capacity.
    monkeypatch.setattr(cache_ttt, "CAPACITY_MULTIPLE", 8)
    model = tiny_model("qwen2", audio_attention=attention)
    requests = random_requests(32)
    session = DecodingSession(model, slots=5, capacity=capacity)
    waiting, found, together = list(enumerate(requests)), {}, 0
    running: dict[int, int] = {}
    while waiting or session.is_active:
        # One joins at each tick, as long as there is room: rows are at different stages all the time.
        if waiting and session.num_free:
            index, (prompt, settings) = waiting.pop(0)
            running[session.admit(prompt, **settings)] = index
        together = max(together, len(running))
        session.tick()
        for event in session.events():
            if event.kind == "end":
                found[running.pop(event.slot)] = session.row(event.slot).ids
                session.release(event.slot)
    assert together == 5
    assert found == {index: alone(model, prompt, **settings) for index, (prompt, settings) in enumerate(requests)}


def test_events_tell_what_the_row_holds(tiny_model: Models) -> None:
    session = DecodingSession(tiny_model("qwen3", seed=1), slots=2, capacity=64)
    slot = session.admit([5, 9, BEGINS[0]], **TINY)
    finish(session)
    events, row = session.events(), session.row(slot)
    assert session.events() == []
    assert {event.slot for event in events} == {slot}
    assert events[-1].kind == "end"
    assert events[-1].finish_reason == row.finish_reason
    markers = {*BEGINS, *row.context.eos_ids, row.context.pad_id}
    written = [token for event in events if event.kind in ("text", "block") for token in event.token_ids]
    assert written == [token for token in row.ids[3:] if token not in markers]
    spans = [segment.complete for segment in row.segments if isinstance(segment, AudioSegment)]
    assert [event.complete for event in events if event.kind == "span_end"] == spans
    assert any(event.kind == "draft" for event in events)


def test_a_cancelled_row_leaves_the_others_alone_and_frees_its_slot(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    (first, _), (second, _), (third, _) = random_requests(3)
    session = DecodingSession(model, slots=3, capacity=64)
    slots = [session.admit(prompt, **TINY) for prompt in (first, second, third)]
    for _ in range(4):
        session.tick()
    session.cancel(slots[0])
    assert session.num_free == 1
    assert [event.finish_reason for event in session.events() if event.kind == "end"] == ["interrupted"]
    finish(session)
    assert session.row(slots[1]).ids == alone(model, second, **TINY)
    assert session.row(slots[2]).ids == alone(model, third, **TINY)


@pytest.mark.parametrize("attention", ["span", "block_causal"])
def test_a_turn_of_a_dialogue_costs_its_own_tokens_and_gives_the_same_ids(attention: str, tiny_model: Models) -> None:
    model = tiny_model("qwen2", audio_attention=attention)
    session = DecodingSession(model, slots=3, capacity=300)
    other = session.admit([7, 8, 9], **{**TINY, "max_new_tokens": 60})
    prompt = [5, *range(41, 47), 6, 8]
    slot = session.admit(prompt, keep_cache=True, **TINY)
    widths: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    for turn in range(3):
        while session.row(slot).is_finished is False:
            session.tick()
        ids = session.row(slot).ids
        assert ids == alone(model, prompt, **TINY)
        if turn == 2:
            break
        prompt = [*ids, 11 + turn, 12, 13]
        del widths[:]
        assert session.admit(prompt, slot=slot, keep_cache=True, **TINY) == slot
        session.tick()
        # The end of the reply, which was chosen but never fed, and the new tokens.
        assert max(widths) < len(prompt) - 10
    handle.remove()
    finish(session)
    assert session.row(other).ids == alone(model, [7, 8, 9], **{**TINY, "max_new_tokens": 60})


def test_another_beginning_takes_over_what_is_the_same(tiny_model: Models) -> None:
    model = tiny_model("qwen3", seed=1)
    session = DecodingSession(model, slots=1, capacity=128)
    slot = session.admit([5, 6, *range(41, 47), 7, 8], keep_cache=True, **TINY)
    finish(session)
    # The run of audio goes on differently, so that its keys change from its start.
    prompt = [5, 6, *range(41, 45), 50, 51, 7, 8]
    session.admit(prompt, slot=slot, **TINY)
    finish(session)
    assert session.row(slot).ids == alone(model, prompt, **TINY)


def test_common_length_stops_before_a_run_that_differs() -> None:
    old = [1, 2, 41, 42, 3, 4]
    assert common_length(old, [1, 2, 41, 42, 3, 4, 5], START) == 6
    assert common_length(old, old, START) == 5
    assert common_length(old, [1, 2, 41, 42, 9, 9], START) == 4
    assert common_length(old, [1, 2, 41, 42, 43, 3], START) == 2
    assert common_length(old, [1, 2, 41, 3, 4], START) == 2
    assert common_length(old, [9, 2], START) == 0
    assert common_length([1, 41], [1, 41, 42], START) == 1


def test_full_sessions_long_prompts_and_wrong_slots_are_errors(tiny_model: Models) -> None:
    session = DecodingSession(tiny_model("qwen2"), slots=1, capacity=16)
    with pytest.raises(ValueError, match="leaves no room for a reply"):
        session.admit(list(range(2, 18)), **TINY)
    # By the official rule the last span may be longer than the limit, and needs its room.
    with pytest.raises(ValueError, match="leaves no room for a reply"):
        session.admit(list(range(2, 8)), audio_vocabulary="official", **{**TINY, "audio_max_span_length": 12})
    slot = session.admit([5, 6], **TINY)
    with pytest.raises(ValueError, match="All 1 slots are in use"):
        session.admit([5, 6], **TINY)
    with pytest.raises(ValueError, match="holds no row that has ended"):
        session.release(slot)
    finish(session)
    # A slot bounds its row as the model's context does.
    assert len(session.row(slot).ids) <= 16
    with pytest.raises(ValueError, match="does not run"):
        session.cancel(slot)
    session.release(slot)
    with pytest.raises(ValueError, match="is free"):
        session.row(slot)


def test_offloaded_models_write_the_same_ids(tiny_model: Models, tmp_path: Any) -> None:
    (prompt, _), (other, _) = random_requests(2)
    expected = [alone(tiny_model("qwen2"), ids, **TINY) for ids in (prompt, other)]
    in_memory = cpu_offload(tiny_model("qwen2"), execution_device=torch.device("cpu"))
    assert [alone(in_memory, ids, **TINY) for ids in (prompt, other)] == expected
    on_disk = tiny_model("qwen2")
    # Tied weights on disk are found by both of their names.
    devices = {"model.embed_tokens": "cpu", "lm_head": "cpu", "model.layers": "disk", "model.norm": "disk"}
    devices["model.rotary_emb"] = "cpu"
    on_disk = dispatch_model(on_disk, devices, main_device="cpu", offload_dir=str(tmp_path))
    assert [alone(on_disk, ids, **TINY) for ids in (prompt, other)] == expected


def test_hooks_on_the_model_see_every_forward(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    calls: list[int] = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    out = model.generate(torch.tensor([[5, 6, BEGINS[0]]]), return_dict_in_generate=True, **TINY)
    handle.remove()
    assert len(calls) == int(out.num_forward_passes[0])


class Fails:
    """A logits processor or a stopping criterion with a fault of its own."""

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> torch.Tensor:
        raise KeyError("of the caller")


FAILURES: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "processor": ({"logits_processor": LogitsProcessorList([Fails()])}, KeyError),
    "criterion": ({"stopping_criteria": StoppingCriteriaList([Fails()])}, KeyError),
    "logits": ({}, ValueError),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_row_that_fails_ends_with_its_error_and_leaves_the_others_alone(failure: str, tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    with torch.no_grad():
        model.get_input_embeddings().weight[60] = torch.nan  # an id that no reply holds
    settings, kind = FAILURES[failure]
    # Its keys and values are not finite either, and the next row takes its place in the cache.
    bad = [7, 60, 8, 9, 10, 11, 12, 13, 14] if failure == "logits" else [7, 8]
    prompts = [[5, 9, 12], bad, [5, 6, BEGINS[0]], [21, 22]]
    session = DecodingSession(model, slots=3, capacity=64)
    slots = [session.admit(prompts[0], **TINY), session.admit(bad, **TINY, **settings)]
    slots.append(session.admit(prompts[2], **TINY))
    session.tick()
    (end,) = [event for event in session.events() if event.kind == "end"]
    assert (end.slot, end.finish_reason) == (slots[1], "error")
    assert isinstance(end.error, kind)
    session.release(slots[1])
    slots[1] = session.admit(prompts[3], **TINY)
    finish(session)
    for index, prompt in ((0, prompts[0]), (2, prompts[2]), (1, prompts[3])):
        assert session.row(slots[index]).error is None
        assert session.row(slots[index]).ids == alone(model, prompt, **TINY)
    with pytest.raises(kind):
        alone(model, bad, **TINY, **settings)


def test_a_row_is_prepared_apart_from_its_session(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    session, events = DecodingSession(model, slots=1, capacity=64), []
    row = prepare_row(model, [5, 9, BEGINS[0]], 64, EventStreamer(events.append), **TINY)
    slot = session.add(row)
    finish(session)
    assert session.row(slot).ids == alone(model, [5, 9, BEGINS[0]], **TINY)
    assert {event.kind for event in events} >= {"draft", "block"}
    assert [event.kind for event in session.events()] == ["end"]


def test_a_row_that_does_not_fit_is_refused(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    session = DecodingSession(model, slots=1, capacity=20)
    with pytest.raises(ValueError, match="needs 43 positions, and the slots of this session have 20"):
        session.add(prepare_row(model, [5, 9, 12], **TINY))
    assert session.num_free == 1


def test_rows_in_text_are_not_padded_to_those_in_a_span(tiny_model: Models) -> None:
    model = tiny_model("qwen2")
    session = DecodingSession(model, slots=4, capacity=64)
    # Text and spans in turns, so that the rows have to be brought together.
    prompts = [[5, 6, 7], [5, 6, BEGINS[0]], [8, 9, 10], [8, 9, BEGINS[1]]]
    settings = {**TINY, "audio_steps_per_block": 4, "max_new_tokens": 30}
    slots = [session.admit(prompt, **settings) for prompt in prompts]
    session.tick()
    shapes: list[tuple[int, ...]] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    in_span = [bool(session.row(slot).canvas) for slot in slots]
    session.tick()
    handle.remove()
    assert sorted(in_span) == [False, False, True, True]
    (short, long) = sorted(shapes, key=lambda shape: shape[1])
    assert short == (2, 1) and long[0] == 2 and long[1] >= 4
    finish(session)
    for slot, prompt in zip(slots, prompts):
        assert session.row(slot).ids == alone(model, prompt, **settings)
