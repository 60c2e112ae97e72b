"""Dialogues: turns cost their own tokens only, and give the ids of a fresh prompt; what fails has not been said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fixed_reply import MAX_POSITIONS, tone
from ttt_hf.loading import load_model_and_processor
from ttt_hf.modeling import TtTForConditionalGeneration
from ttt_hf.processing import TtTProcessor
from ttt_hf.processing.dialogue import Dialogue


TONE = {"type": "audio", "audio": tone(1.0, 16000), "sampling_rate": 16000}
RATE = 16000


@pytest.fixture(scope="module")
def parts(checkpoint: Path) -> tuple[TtTForConditionalGeneration, TtTProcessor]:
    return load_model_and_processor(str(checkpoint))


@pytest.fixture
def dialogue(parts: tuple) -> Dialogue:
    return Dialogue(*parts)


def say(dialogue: Dialogue, content: object, **generation: object) -> tuple[str, np.ndarray]:
    pieces = list(dialogue.respond(content, **generation))
    speech = [piece for piece in pieces if not isinstance(piece, str)]
    return "".join(piece for piece in pieces if isinstance(piece, str)), np.concatenate([np.zeros(0), *speech])


def count_positions(dialogue: Dialogue, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of each forward from now on."""
    positions: list[int] = []
    forward = dialogue.model.forward

    def counted(*inputs: object, **arguments: object) -> object:
        positions.append(arguments["input_ids"].shape[1])
        return forward(*inputs, **arguments)

    monkeypatch.setattr(dialogue.model, "forward", counted)
    return positions


def test_a_reply_comes_in_pieces_and_as_a_whole(dialogue: Dialogue) -> None:
    text, speech = say(dialogue, "Hello there.")
    assert text == dialogue.reply.text == "Hi."
    assert len(speech) and np.array_equal(speech, dialogue.reply.audio)
    assert [message["role"] for message in dialogue.messages] == ["user", "assistant"]
    assert dialogue.messages[1]["content"] is dialogue.reply.segments


def test_turns_are_those_of_a_fresh_prompt_and_cost_their_own_tokens(
    embedded: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = embedded
    dialogue = Dialogue(model, processor)
    questions = ["What is two plus two?", "What is a carrot?", "Name a color."]
    messages: list = []
    for question in questions:
        positions = count_positions(dialogue, monkeypatch)
        text, _ = say(dialogue, question, seed=3, max_new_tokens=60)
        first = positions[0]
        monkeypatch.undo()
        messages.append({"role": "user", "content": question})
        inputs = processor.apply_chat_template(messages, add_generation_prompt=True)
        if len(messages) > 1:
            assert first < inputs["input_ids"].shape[1] // 2
        out = model.generate(**inputs, seed=3, max_new_tokens=60, return_dict_in_generate=True)
        fresh = processor.decode_reply(out)
        assert (text.strip(), dialogue.reply.finish_reason) == (fresh.text, fresh.finish_reason)
        for one, other in zip(dialogue.reply.segments, fresh.segments, strict=True):
            assert one["type"] == other["type"]
            assert torch.equal(one["codes"], other["codes"]) if "codes" in one else one == other
        messages.append({"role": "assistant", "content": fresh.segments})


@pytest.fixture(scope="module")
def embedded() -> tuple[TtTForConditionalGeneration, TtTProcessor]:
    return load_model_and_processor()


def test_recordings_are_encoded_once(dialogue: Dialogue, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = dialogue.processor.encode_audio
    monkeypatch.setattr(dialogue.processor, "encode_audio", lambda rows: encoded.append(len(rows)) or encode(rows))
    say(dialogue, [TONE])
    say(dialogue, "Hello.")
    say(dialogue, [TONE])
    assert encoded == [1, 1]
    assert set(dialogue.messages[0]["content"][0]) == {"type", "codes"}


def test_old_turns_make_room(dialogue: Dialogue, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    admit = dialogue._session.admit
    monkeypatch.setattr(
        dialogue._session, "admit", lambda prompt, **more: lengths.append(len(prompt)) or admit(prompt, **more)
    )
    for _ in range(12):
        assert say(dialogue, "Hello there. " * 4)[0] == "Hi."
    assert len(dialogue.messages) == 24
    assert max(lengths) + 200 <= MAX_POSITIONS  # max_new_tokens of this checkpoint
    assert lengths[1] > lengths[0] and lengths[-1] <= max(lengths[:-1])


@pytest.mark.parametrize("turns", [0, 1])
def test_the_model_sees_the_turns_it_is_told(parts: tuple, turns: int) -> None:
    dialogue = Dialogue(*parts, turns=turns)
    lengths = []
    for _ in range(4):
        say(dialogue, "Hello.")
        lengths.append(len(dialogue._session.row(0).ids))
    assert (lengths[0] == lengths[1]) is (turns == 0)
    assert lengths[1] == lengths[2] == lengths[3]


def test_forgetting_and_starting_anew(dialogue: Dialogue) -> None:
    say(dialogue, "Hello.")
    length = len(dialogue._session.row(0).ids)
    dialogue.forget()
    say(dialogue, "Hello.")
    assert len(dialogue._session.row(0).ids) == length and len(dialogue.messages) == 4
    dialogue.clear()
    say(dialogue, "Hello.")
    assert len(dialogue._session.row(0).ids) == length and len(dialogue.messages) == 2


def test_a_system_prompt_takes_the_place_of_the_tasks(dialogue: Dialogue) -> None:
    dialogue.system = "Hello hello."
    say(dialogue, "Hello.")
    ids = dialogue._session.row(0).ids
    assert dialogue.processor.tokenizer.decode(ids).count("Hello hello.") == 1


def test_an_interrupted_reply_stays_as_far_as_it_came(dialogue: Dialogue) -> None:
    for piece in dialogue.respond("Hello."):
        assert isinstance(piece, str)
        dialogue.interrupt()
    assert dialogue.reply.finish_reason == "interrupted"
    assert dialogue.messages[1]["content"] == [{"type": "text", "text": "Hi"}]  # one forward later
    assert say(dialogue, "Hello.")[0] == "Hi."


def test_a_turn_that_is_left_early_has_not_been(dialogue: Dialogue) -> None:
    say(dialogue, "Hello.")
    pieces = dialogue.respond("Hello there.")
    next(pieces)
    pieces.close()
    assert len(dialogue.messages) == 2
    assert say(dialogue, "Hello.")[0] == "Hi."


@pytest.mark.parametrize(
    ("content", "generation", "message"),
    [
        ("Hello. " * 600, {}, "The turn is too long"),
        ([{**TONE, "audio": tone(60.0, RATE)}], {}, "The recording is too long: 60 s, and at most 41 s"),
        ([{"type": "audio", "path": "missing.wav"}], {}, "missing.wav"),
        ([{"type": "audio"}], {}, "exactly one of"),
        ("Hello.", {"audio_steps_per_block": 0}, "audio_steps_per_block must be an integer"),
        ("Hello.", {"audio_entropy_bound": -1.0}, "at least 0"),
    ],
)
def test_what_cannot_be_used_is_said_and_has_not_been(
    dialogue: Dialogue, content: object, generation: dict, message: str
) -> None:
    say(dialogue, "Hello.")
    with pytest.raises((ValueError, OSError), match=message):
        say(dialogue, content, **generation)
    assert len(dialogue.messages) == 2
    assert say(dialogue, "Hello.")[0] == "Hi."


def test_a_row_that_fails_raises_its_error(dialogue: Dialogue) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("not this one")

    with pytest.raises(RuntimeError, match="not this one"):
        say(dialogue, "Hello.", prefix_allowed_tokens_fn=fail)
    assert dialogue.messages == [] and say(dialogue, "Hello.")[0] == "Hi."


def test_codecs_that_decode_as_a_whole(dialogue: Dialogue, monkeypatch: pytest.MonkeyPatch) -> None:
    streamed = say(dialogue, "Hello.")[1]
    codec_class = type(dialogue.processor.codec)
    (owner,) = (kind for kind in codec_class.__mro__ if "decode_stream" in vars(kind))
    monkeypatch.delattr(owner, "decode_stream")
    whole = list(dialogue.respond("Hello."))[-1]
    assert np.abs(whole - streamed).max() < 2e-4
    assert dialogue.reply.audio is whole
