"""`/v1/chat/completions`, asked by OpenAI's own client."""

import base64
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from local_server import LocalServer

from ttt_hf.processing import read_audio


QUESTION = Path(__file__).resolve().parents[3] / "examples" / "question.wav"
HELLO: list[Any] = [{"role": "user", "content": "What is two plus three?"}]
SPOKEN: dict[str, Any] = {"model": "embedded", "modalities": ["text", "audio"], "seed": 0}


def reply_of(loaded: tuple[Any, Any], messages: list[Any], task: str, **settings: Any) -> tuple[Any, list[int]]:
    """What `generate()` gives alone: the reply and its new ids."""
    model, processor = loaded
    inputs = processor.apply_chat_template(messages, task=task, add_generation_prompt=True)
    output = model.generate(**inputs, return_dict_in_generate=True, **settings)
    return processor.decode_reply(output), output.sequences[0, inputs["input_ids"].shape[1] :].tolist()


def test_text(client: openai.OpenAI, embedded: tuple[Any, Any]) -> None:
    completion = client.chat.completions.create(
        model="embedded", messages=HELLO, temperature=0, extra_body={"return_token_ids": True}
    )
    reply, ids = reply_of(embedded, HELLO, "text")
    (choice,) = completion.choices
    assert choice.message.content == reply.text and choice.message.audio is None
    assert choice.finish_reason == "stop"
    assert choice.model_extra["token_ids"] == ids
    assert completion.usage.completion_tokens == len(ids)
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + len(ids)
    assert completion.usage.completion_tokens_details.audio_tokens == 0


@pytest.mark.parametrize("form", ["wav", "mp3", "flac", "opus", "pcm16"])
def test_speech_in_every_format(form: Any, client: openai.OpenAI, embedded: tuple[Any, Any]) -> None:
    audio: Any = {"voice": "default", "format": form}
    completion = client.chat.completions.create(messages=HELLO, audio=audio, **SPOKEN)
    reply, _ = reply_of(embedded, HELLO, "chat", seed=0)
    message = completion.choices[0].message
    assert message.content is None and message.audio.transcript == reply.text
    assert message.audio.expires_at > time.time()
    content = base64.b64decode(message.audio.data)
    if form == "pcm16":
        samples, rate = np.frombuffer(content, "<i2") / 32768, 24_000
    else:
        samples, rate = read_audio(content)
    assert len(samples) / rate == pytest.approx(len(reply.audio) / reply.sampling_rate, abs=0.1)
    if form in ("wav", "flac"):
        np.testing.assert_allclose(samples, np.clip(reply.audio, -1, 1), atol=2e-4)
    assert completion.usage.completion_tokens_details.audio_tokens > 20


@pytest.mark.parametrize("form", ["wav", "mp3", "flac", "ogg", "webm"])
def test_spoken_questions(form: str, client: openai.OpenAI, embedded: tuple[Any, Any]) -> None:
    av = pytest.importorskip("av")
    import io

    samples, rate = read_audio(QUESTION)
    sink = io.BytesIO()
    with av.open(sink, "w", format={"webm": "webm"}.get(form, form)) as container:
        codec = {"wav": "pcm_s16le", "mp3": "libmp3lame", "flac": "flac"}.get(form, "libopus")
        stream: Any = container.add_stream(codec, rate=48_000 if codec == "libopus" else rate, layout="mono")
        resampler = av.AudioResampler(stream.format, "mono", stream.rate)
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="flt", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(part))
    data = base64.b64encode(sink.getvalue()).decode()
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": data, "format": form}}]}
    ]
    completion = client.chat.completions.create(
        model="embedded", messages=messages, temperature=0, extra_body={"task": "asr"}
    )
    assert completion.choices[0].message.content == "Please tell me what a carrot is."
    assert completion.usage.prompt_tokens_details.audio_tokens >= 19


def test_a_stream_holds_the_reply(client: openai.OpenAI, embedded: tuple[Any, Any]) -> None:
    reply, ids = reply_of(embedded, HELLO, "chat", seed=0)
    stream = client.chat.completions.create(
        messages=HELLO,
        audio={"voice": "default", "format": "pcm16"},
        stream=True,
        stream_options={"include_usage": True},
        **SPOKEN,
    )
    transcript, content, names, reasons, usage = "", b"", set(), [], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            audio = choice.delta.to_dict().get("audio") or {}
            names.add(audio.get("id", ""))
            transcript += audio.get("transcript", "")
            content += base64.b64decode(audio.get("data", ""))
            reasons.append(choice.finish_reason)
    assert transcript.strip() == reply.text
    assert len(names - {""}) == 1
    assert [reason for reason in reasons if reason] == ["stop"] and reasons[-1] == "stop"
    assert usage is not None and usage.completion_tokens == len(ids)
    assert len(content) / 2 / 24_000 == pytest.approx(len(reply.audio) / reply.sampling_rate, abs=0.1)


def test_a_stream_of_text(client: openai.OpenAI, embedded: tuple[Any, Any]) -> None:
    reply, _ = reply_of(embedded, HELLO, "text")
    stream = client.chat.completions.create(model="embedded", messages=HELLO, stream=True)
    chunks = [chunk.choices[0] for chunk in stream]
    assert chunks[0].delta.role == "assistant"
    assert "".join(chunk.delta.content or "" for chunk in chunks).strip() == reply.text
    assert len(chunks) > 4


def test_a_conversation_goes_on_from_a_spoken_reply(client: openai.OpenAI, embedded: tuple[Any, Any]) -> None:
    first = client.chat.completions.create(messages=HELLO, audio={"voice": "default", "format": "wav"}, **SPOKEN)
    more: list[Any] = [
        *HELLO,
        {"role": "assistant", "audio": {"id": first.choices[0].message.audio.id}},
        {"role": "user", "content": "Say it again."},
    ]
    second = client.chat.completions.create(
        messages=more, audio={"voice": "default", "format": "wav"}, extra_body={"return_token_ids": True}, **SPOKEN
    )
    earlier, _ = reply_of(embedded, HELLO, "chat", seed=0)
    conversation = [*HELLO, {"role": "assistant", "content": earlier.segments}, more[-1]]
    _, ids = reply_of(embedded, conversation, "chat", seed=0)
    assert second.choices[0].model_extra["token_ids"] == ids
    more[1] = {"role": "assistant", "audio": {"id": "audio_of_another"}}
    with pytest.raises(openai.BadRequestError, match="no earlier reply"):
        client.chat.completions.create(messages=more, **SPOKEN)


def test_generation_keys(client: openai.OpenAI, embedded: tuple[Any, Any]) -> None:
    keys: dict[str, Any] = {"audio_steps_per_block": 4, "audio_temperature": 0.5, "top_k": 5}
    completion = client.chat.completions.create(
        messages=HELLO, temperature=1.3, max_completion_tokens=20,
        extra_body={**keys, "return_token_ids": True}, **SPOKEN,
    )  # fmt: skip
    _, ids = reply_of(embedded, HELLO, "chat", do_sample=True, temperature=1.3, max_new_tokens=20, seed=0, **keys)
    assert completion.choices[0].model_extra["token_ids"] == ids
    assert len(ids) == 20 and completion.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_are_not_part_of_the_reply(stream: Any, client: openai.OpenAI) -> None:
    made = client.chat.completions.create(model="embedded", messages=HELLO, stop=["three"], stream=stream)
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in made)
    else:
        text = made.choices[0].message.content
    assert text.strip() == "Two plus"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "gpt-4o"}, "no model 'gpt-4o'"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\.0\.role must be one of"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, r"messages\.0\.content\.0 must have"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature|JSON"),
        ({"n": 2}, "n:"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, r"audio\.voice: .*'default'"),
        ({"stop": [""]}, "stop holds at most"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"beam_width": 3}, "no parameter 'beam_width'"),
        ({"seed": -1}, "seed"),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "http://a.b/c"}}]}]},
            "not fetched",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "/etc/passwd"}}]}]},
            "on this machine",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "=?="}}]}]},
            "not base64",
        ),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, "tokens"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_used_is_refused_in_a_sentence(
    stream: bool, change: dict[str, Any], message: str, server: LocalServer
) -> None:
    import json
    import re

    body = {"model": "embedded", "messages": HELLO, "stream": stream, **change}
    response = httpx.post(
        f"{server.url}/v1/chat/completions", content=json.dumps(body), headers={"Content-Type": "application/json"},
        timeout=60,
    )  # fmt: skip
    assert response.status_code == (404 if "model" in change else 400)
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert re.search(message, error["message"]), error
    assert "\n" not in error["message"]


def test_a_client_that_leaves_frees_its_slot(server: LocalServer) -> None:
    body = {"model": "embedded", "messages": HELLO, "modalities": ["text", "audio"], "max_tokens": 2000}
    for stream in (True, False):
        before = server.engine.num_running
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/chat/completions", json={**body, "stream": stream}, timeout=0.05)
        end = time.monotonic() + 5
        while server.engine.num_running > before and time.monotonic() < end:
            time.sleep(0.01)
        assert server.engine.num_running == before == 0


def test_many_clients_at_once_get_what_one_alone_gets(client: openai.OpenAI, embedded: tuple[Any, Any]) -> None:
    texts = ["What is two plus three?", "What colour is the sky?", "Say hello.", "How many days has a week?"]
    found: dict[int, list[int]] = {}

    def ask(index: int) -> None:
        completion = client.chat.completions.create(
            messages=[{"role": "user", "content": texts[index % 4]}],
            extra_body={"return_token_ids": True, "audio_temperature": 0.6},
            **{**SPOKEN, "seed": index},
        )
        found[index] = completion.choices[0].model_extra["token_ids"]

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(8):
        messages = [{"role": "user", "content": texts[index % 4]}]
        assert found[index] == reply_of(embedded, messages, "chat", seed=index, audio_temperature=0.6)[1]
