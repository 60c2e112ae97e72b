"""`/v1/audio/speech` and `/v1/audio/transcriptions`, asked by OpenAI's own client."""

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
from local_server import LocalServer

from ttt_hf.processing import read_audio


QUESTION = Path(__file__).resolve().parents[3] / "examples" / "question.wav"
TEXT = "The hospital is between the church and the river."
HEARD = "Please tell me what a carrot is."
SPEECH, RATE = read_audio(QUESTION)
HISS = np.random.default_rng(0).normal(0, 0.003, 3 * RATE)


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize("form", ["mp3", "wav", "flac", "opus", "aac", "pcm"])
def test_speech(form: Any, client: openai.OpenAI, embedded: tuple[Any, Any]) -> None:
    model, processor = embedded
    inputs = processor.apply_chat_template([{"role": "user", "content": TEXT}], task="tts", add_generation_prompt=True)
    reply = processor.decode_reply(model.generate(**inputs, seed=0, return_dict_in_generate=True))
    with client.audio.speech.with_streaming_response.create(
        model="embedded", input=TEXT, voice="default", response_format=form, extra_body={"seed": 0}
    ) as response:
        chunks = list(response.iter_bytes())
    assert response.headers["transfer-encoding"] == "chunked"
    content = b"".join(chunks)
    if form == "pcm":
        samples, rate = np.frombuffer(content, "<i2") / 32768, 24_000
    else:
        samples, rate = read_audio(content)
    assert len(samples) / rate == pytest.approx(len(reply.audio) / reply.sampling_rate, abs=0.15)
    if form in ("wav", "flac"):
        np.testing.assert_allclose(samples, np.clip(reply.audio, -1, 1), atol=2e-4)


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "tts-1"}, 404, "model"),
        ({"input": ""}, 400, "input"),
        ({"voice": "alloy"}, 400, "voice"),
        ({"speed": 2}, 400, "speed"),
        ({"response_format": "midi"}, 400, "response_format"),
        ({"instructions": "angrily"}, 400, "instructions"),
    ],
)
def test_speech_that_cannot_be_made(change: dict[str, Any], status: int, param: str, server: LocalServer) -> None:
    body = {"model": "embedded", "input": TEXT, "voice": "default", **change}
    response = httpx.post(f"{server.url}/v1/audio/speech", json=body)
    assert response.status_code == status
    assert response.json()["error"]["param"] == param


def test_transcription(client: openai.OpenAI) -> None:
    with QUESTION.open("rb") as file:
        assert client.audio.transcriptions.create(model="embedded", file=file).text == HEARD
    surrounded = wav(np.pad(SPEECH, 2 * RATE) + np.resize(HISS, len(SPEECH) + 4 * RATE))
    assert client.audio.transcriptions.create(model="embedded", file=("a.wav", surrounded)).text == HEARD
    plain: Any = client.audio.transcriptions.create(model="embedded", file=QUESTION, response_format="text")
    assert plain == f"{HEARD}\n"
    long = client.audio.transcriptions.create(
        model="embedded", file=QUESTION, response_format="verbose_json", language="english"
    )
    samples, rate = read_audio(QUESTION)
    assert long.text == HEARD and long.language == "english"
    assert float(long.duration) == pytest.approx(len(samples) / rate, abs=0.01)


def test_transcription_as_a_stream(client: openai.OpenAI) -> None:
    events = list(client.audio.transcriptions.create(model="embedded", file=QUESTION, stream=True))
    assert "".join(event.delta for event in events[:-1]).strip() == HEARD == events[-1].text
    assert len(events) > 4


@pytest.mark.parametrize(
    ("data", "files", "status", "message"),
    [
        ({"model": "whisper-1"}, {"file": b"x"}, 404, "no model"),
        ({"model": "embedded"}, {"file": b"no audio"}, 400, "not audio that can be read"),
        ({"model": "embedded"}, {"file": b""}, 400, "empty"),
        ({"model": "embedded"}, {"file": wav(HISS)}, 400, "holds no speech, only silence or steady noise"),
        ({"model": "embedded"}, {"file": wav(np.tile(SPEECH, 6))}, 400, "trained on at most 8 s: cut it into parts"),
        ({"model": "embedded"}, {}, 400, "file must be a recording"),
        ({"model": "embedded", "file": "text"}, {"other": b"x"}, 400, "file must be a recording"),
        ({}, {"file": b"x"}, 400, "model"),
        ({"model": "embedded", "response_format": "srt"}, {"file": b"x"}, 400, "response_format"),
        ({"model": "embedded", "temperature": "hot"}, {"file": b"x"}, 400, "temperature"),
        ({"model": "embedded", "timestamp_granularities[]": "word"}, {"file": b"x"}, 400, "no parameter"),
    ],
)
def test_recordings_that_cannot_be_read(
    data: dict[str, str], files: dict[str, bytes], status: int, message: str, server: LocalServer
) -> None:
    response = httpx.post(f"{server.url}/v1/audio/transcriptions", data=data, files=files)
    assert response.status_code == status
    assert message in response.json()["error"]["message"]
