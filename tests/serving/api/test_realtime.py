"""`/v1/realtime`, by OpenAI's own client."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from local_server import LocalServer
from websockets.sync.client import connect

from ttt_hf.processing import load_audio
from ttt_hf.serving.api.guard import Rules


RATE = 24_000
QUESTION = Path(__file__).resolve().parents[3] / "examples" / "question.wav"
HEARD = "Please tell me what a carrot is."
NO_TURNS: dict[str, Any] = {"audio": {"input": {"turn_detection": None}}}


def question(silence: float = 0.0) -> bytes:
    samples = load_audio(str(QUESTION), None, RATE)
    pause = np.zeros(round(silence * RATE), dtype=np.float32)
    return (np.concatenate([pause, samples, pause]) * 32767).astype("<i2").tobytes()


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


class Talk:
    """A connection, and all events that came."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.seen: list[Any] = []

    def until(self, kind: str) -> Any:
        """The next event of a kind; those before it are kept in `seen`."""
        while True:
            event = self.connection.recv()
            self.seen.append(event)
            if event.type == kind:
                return event
            assert event.type != "error", event

    def update(self, **session: Any) -> Any:
        self.connection.session.update(session={"type": "realtime", **session})
        return self.until("session.updated").session

    def kinds(self) -> list[str]:
        return [event.type for event in self.seen]

    def speech(self) -> bytes:
        deltas = [event.delta for event in self.seen if event.type == "response.output_audio.delta"]
        return b"".join(map(base64.b64decode, deltas))


@pytest.fixture
def talk(client: openai.OpenAI) -> Any:
    with client.realtime.connect(model="embedded") as connection:
        talk = Talk(connection)
        talk.until("session.created")
        yield talk


def test_a_spoken_question_gets_a_spoken_answer(talk: Talk, embedded: tuple[Any, Any]) -> None:
    session = talk.update(**NO_TURNS)
    assert session.audio.input.turn_detection is None and session.output_modalities == ["audio"]
    content = question()
    for start in range(0, len(content), 9600):
        talk.connection.input_audio_buffer.append(audio=text_of(content[start : start + 9600]))
    talk.connection.input_audio_buffer.commit()
    item = talk.until("conversation.item.done").item
    assert item.role == "user" and item.content[0].type == "input_audio"
    talk.connection.response.create()
    response = talk.until("response.done").response
    assert response.status == "completed"
    assert response.usage.input_token_details.audio_tokens >= 19
    transcript = "".join(event.delta for event in talk.seen if event.type == "response.output_audio_transcript.delta")
    assert transcript.strip() == response.output[0].content[0].transcript
    # As `generate()` alone.
    model, processor = embedded
    samples = np.frombuffer(content, "<i2").astype(np.float32) / 32768
    audio = {"type": "audio", "audio": samples, "sampling_rate": RATE}
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [audio]}], task="chat", add_generation_prompt=True
    )
    reply = processor.decode_reply(model.generate(**inputs, return_dict_in_generate=True))
    assert transcript.strip() == reply.text
    assert len(talk.speech()) / 2 / RATE == pytest.approx(len(reply.audio) / reply.sampling_rate, abs=0.1)
    order = [
        "response.created", "response.output_item.added", "response.content_part.added",
        "response.output_audio_transcript.delta", "response.output_audio.delta", "response.output_audio.done",
        "response.output_audio_transcript.done", "response.content_part.done", "response.output_item.done",
        "response.done",
    ]  # fmt: skip
    kinds = talk.kinds()
    assert sorted(order, key=kinds.index) == order


def test_the_server_hears_where_a_turn_ends(talk: Talk) -> None:
    talk.update(audio={"input": {"transcription": {"model": "embedded"}}})
    content = question(silence=0.8)
    for start in range(0, len(content), 4800):
        talk.connection.input_audio_buffer.append(audio=text_of(content[start : start + 4800]))
    started, stopped = talk.until("input_audio_buffer.speech_started"), talk.until("input_audio_buffer.speech_stopped")
    assert started.item_id == stopped.item_id == talk.until("input_audio_buffer.committed").item_id
    assert started.audio_start_ms == pytest.approx(500, abs=250)  # with its padding
    assert stopped.audio_end_ms > started.audio_start_ms + 1000
    wanted = {"response.done", "conversation.item.input_audio_transcription.completed"}
    while not wanted <= set(talk.kinds()):
        talk.seen.append(talk.connection.recv())
    (heard,) = [event for event in talk.seen if event.type.endswith("transcription.completed")]
    assert heard.transcript == HEARD and heard.item_id == started.item_id
    assert len(talk.speech()) > RATE


def test_speaking_over_it_stops_it(talk: Talk, server: LocalServer) -> None:
    talk.update(generation={"audio_temperature": 0.9, "seed": 1}, instructions="You are an audio-to-audio chat model.")
    content = question(silence=0.8)
    talk.connection.input_audio_buffer.append(audio=text_of(content))
    first = talk.until("response.created").response.id
    talk.connection.input_audio_buffer.append(audio=text_of(content))
    response = talk.until("response.done").response
    assert (response.id, response.status) == (first, "cancelled")
    assert response.status_details.reason == "turn_detected"
    assert response.output[0].status == "incomplete"
    second = talk.until("response.done").response
    assert second.id != first and second.status == "completed"


def test_a_response_can_be_cancelled(talk: Talk, server: LocalServer) -> None:
    talk.update(output_modalities=["audio"], **NO_TURNS)
    message: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say hello."}]}
    talk.connection.conversation.item.create(item=message)
    talk.connection.response.create()
    talk.until("response.created")
    talk.connection.response.cancel()
    response = talk.until("response.done").response
    assert response.status == "cancelled" and response.status_details.reason == "client_cancelled"
    talk.connection.response.cancel()
    assert talk.connection.recv().error.code == "response_cancel_not_active"
    talk.connection.response.create(response={"output_modalities": ["text"], "max_output_tokens": 3})
    response = talk.until("response.done").response
    assert response.status == "incomplete" and response.output[0].content[0].type == "output_text"
    assert response.usage.output_tokens == 3
    assert server.engine.num_running == 0


def test_items_can_be_changed(talk: Talk) -> None:
    talk.update(**NO_TURNS)
    message: Any = {
        "type": "message", "role": "user", "id": "mine", "content": [{"type": "input_text", "text": "Say hello."}]
    }  # fmt: skip
    talk.connection.conversation.item.create(item=message)
    assert talk.until("conversation.item.done").item.id == "mine"
    talk.connection.response.create()
    response = talk.until("response.done").response
    name = response.output[0].id
    talk.connection.conversation.item.truncate(item_id=name, content_index=0, audio_end_ms=400)
    talk.until("conversation.item.truncated")
    talk.connection.conversation.item.retrieve(item_id=name)
    item = talk.until("conversation.item.retrieved").item
    assert item.status == "incomplete"
    # What was not heard is not read by the model, either.
    talk.connection.response.create()
    before, after = response.usage.total_tokens, talk.until("response.done").response.usage.input_tokens
    assert after < before
    talk.connection.conversation.item.delete(item_id=name)
    assert talk.until("conversation.item.deleted").item_id == name
    talk.connection.conversation.item.delete(item_id=name)
    assert talk.connection.recv().error.code == "item_not_found"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        (b"{}", "invalid_json"),
        ({}, "invalid_value"),
        ({"type": 3}, "invalid_value"),
        ({"type": "no.such"}, "unknown_event"),
        ({"type": "response.create", "event_id": "mine"}, "no_items"),
        ({"type": "response.create", "response": {"output_modalities": ["video"]}}, "invalid_value"),
        ({"type": "input_audio_buffer.append"}, "invalid_value"),
        ({"type": "input_audio_buffer.append", "audio": "=?"}, "invalid_value"),
        ({"type": "input_audio_buffer.append", "audio": "AAA="[:3]}, "invalid_value"),
        ({"type": "input_audio_buffer.append", "audio": text_of(b"abc")}, "invalid_value"),
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty"),
        ({"type": "session.update", "session": {"speed": 2}}, "unknown_parameter"),
        ({"type": "session.update", "session": {"model": "gpt-4o"}}, "model_not_found"),
        ({"type": "session.update", "session": {"audio": {"input": {"format": 1}}}}, "invalid_value"),
        ({"type": "session.update", "session": {"tools": [1]}}, "invalid_value"),
        ({"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [
            {"type": "input_audio", "audio": text_of(bytes(RATE))}]}}, "invalid_value"),
        ({"type": "response.create", "type_of": 1, "event_id": 7}, "invalid_value"),
    ],
)  # fmt: skip
def test_events_that_cannot_be_used_are_answered_by_an_error(message: Any, code: str, server: LocalServer) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime?model=embedded") as socket:
        assert json.loads(socket.recv())["type"] == "session.created"
        socket.send(json.dumps(message) if isinstance(message, dict) else message)
        event = json.loads(socket.recv(timeout=10))
        assert event["type"] == "error" and event["error"]["code"] == code, event
        expected = message.get("event_id") if isinstance(message, dict) else None
        assert event["error"]["event_id"] == (expected if isinstance(expected, str) else None)
        # It goes on.
        socket.send(json.dumps({"type": "input_audio_buffer.clear"}))
        assert json.loads(socket.recv(timeout=10))["type"] == "input_audio_buffer.cleared"


def test_who_may_connect(fixed: tuple[Any, Any]) -> None:
    from websockets.exceptions import InvalidStatus

    with LocalServer(fixed, Rules(api_key="se-cret")) as server:
        url = f"ws://127.0.0.1:{server.port}/v1/realtime"

        def status(**settings: Any) -> int:
            try:
                with connect(settings.pop("url", url), **settings) as socket:
                    assert json.loads(socket.recv())["type"] == "session.created"
                return 101
            except InvalidStatus as error:
                return error.response.status_code

        key = {"Authorization": "Bearer se-cret"}
        assert status() == status(additional_headers={"Authorization": "Bearer x"}) == 401
        assert status(additional_headers=key) == 101
        assert status(subprotocols=["realtime", "openai-insecure-api-key.se-cret"]) == 101
        assert status(subprotocols=["realtime", "openai-insecure-api-key.wrong"]) == 401
        assert status(additional_headers=key, origin="https://evil.example") == 403
        assert status(additional_headers=key, url=f"{url}?model=other") == 404


def test_a_client_that_leaves_ends_its_response(server: LocalServer, wait_until: Callable[..., None]) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime") as socket:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say hello."}]}
        for event in ({"type": "conversation.item.create", "item": item}, {"type": "response.create"}):
            socket.send(json.dumps(event))
        while json.loads(socket.recv())["type"] != "response.created":
            pass
    wait_until(lambda: server.engine.num_running == 0)
