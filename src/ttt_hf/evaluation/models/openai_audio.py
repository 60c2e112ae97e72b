"""Audio chat models behind an OpenAI-compatible API: recordings are sent as base64 WAV, text and speech come back."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import soundfile

from ...processing import SYSTEM_PROMPTS, read_audio
from ...processing.audio_files import decode
from ..concepts import FinishReason, Response, Sample, Task
from ..endpoint import Endpoint, RequestFailed
from ..redaction import address_without_secrets, is_secret_name
from .failing import failed_response


# A task's generation setting -> its name in the API. Its other settings are TtT's own and are not sent.
TASK_KEYS = {"max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "seed": "seed"}
FINISH_REASONS: dict[str | None, FinishReason] = {"stop": "stop", "length": "length", None: "stop"}


class OpenAIAudioModel:
    """An audio chat model behind an API.

    Transient failures (429, 5xx, timeouts) are retried with exponential backoff. If a request still fails, is refused,
    or its answer cannot be parsed, the sample gets a failed response.

    Args:
        endpoint: The server.
        model: Name of the model on the server.
        voice: Voice for tasks with spoken replies.
        concurrency: Number of concurrent requests.
        request: Further fields of the request, such as `temperature`; they override the task's. The default
            temperature is 0.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        voice: str = "alloy",
        concurrency: int = 8,
        request: Mapping[str, Any] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.model = model
        self.voice = voice
        self.concurrency = concurrency
        self.request = dict(request or {})

    @property
    def description(self) -> dict[str, Any]:
        """All that is known of what the replies depend on: the server may change the model behind the name."""
        return {
            "kind": "openai",
            "name": self.model,
            "url": self.endpoint.url,
            "voice": self.voice,
            "request": {"temperature": 0, **self.request},
        }

    def respond(self, samples: Sequence[Sample], task: Task) -> list[Response]:
        """Answers a batch.

        Args:
            samples: Recordings or written questions.
            task: `prompt` selects the system prompt, `output` whether speech is requested.

        Returns:
            One response per sample, in order, with `forward_passes` 0: unknown.

        Raises:
            ConnectionError: If there is no server at the address.
            PermissionError: If the key is missing or wrong.
            ValueError: If the server has no such model, or there is no such prompt.
        """
        if task.prompt not in SYSTEM_PROMPTS:
            raise ValueError(
                f"Task {task.name} wants the prompt {task.prompt!r}: choose one of {', '.join(SYSTEM_PROMPTS)}."
            )
        # Set by an earlier batch that was stopped by an error.
        self.endpoint.stopped.clear()
        with ThreadPoolExecutor(max(1, min(self.concurrency, len(samples)))) as pool:
            try:
                return list(pool.map(lambda sample: self._answer(sample, task), samples))
            except BaseException:
                # The other requests need not be retried any more.
                self.endpoint.stopped.set()
                raise

    def _answer(self, sample: Sample, task: Task) -> Response:
        started = time.perf_counter()
        # Apart from the request below: there, a ValueError is a wrong address, which ends the run.
        try:
            messages = _messages(sample, task)
        except (ValueError, TypeError) as error:
            return failed_response(error)
        try:
            answer = self.endpoint.post("chat/completions", self._body(messages, task))
            return _read_answer(answer, time.perf_counter() - started)
        except RequestFailed as error:
            return failed_response(error, time.perf_counter() - started)

    def _body(self, messages: list[dict[str, Any]], task: Task) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": messages, "temperature": 0}
        body |= {TASK_KEYS[key]: value for key, value in task.generation.items() if key in TASK_KEYS}
        if task.output == "speech":
            body |= {"modalities": ["text", "audio"], "audio": {"voice": self.voice, "format": "wav"}}
        # The user's own fields last: they override those of the task.
        return {**body, **self.request}


def load_openai(
    name: str,
    key_variable: str = "OPENAI_API_KEY",
    timeout: float = 120.0,
    tries: int = 5,
    pause: float = 1.0,
    voice: str = "alloy",
    concurrency: int = 8,
    **request: Any,
) -> OpenAIAudioModel:
    """Makes a model of `URL#MODEL`. Nothing is sent yet.

    Args:
        name: Base address, `#` and the name of the model, such as `http://localhost:8000/v1#name`.
        key_variable, timeout, tries, pause: As of `Endpoint`.
        voice, concurrency: As of `OpenAIAudioModel`.
        **request: Further fields of each request.
    """
    url, _, model = name.rpartition("#")
    if not url or not model:
        raise ValueError(
            f"openai:{address_without_secrets(name)} is no model: write openai:URL#MODEL, as "
            "openai:http://localhost:8000/v1#name."
        )
    for key in request:
        # The fields of a request are recorded, since the replies depend on them.
        if is_secret_name(key):
            raise ValueError(f"{key} would be recorded with the settings: set the variable {key_variable} instead.")
    return OpenAIAudioModel(Endpoint(url, key_variable, timeout, tries, pause), model, voice, concurrency, request)


def _messages(sample: Sample, task: Task) -> list[dict[str, Any]]:
    """Makes the system and the user message; raises an error if the sample has no usable question."""
    content: list[dict[str, Any]] = []
    if sample.audio is not None:
        # Checked here like any recording, so that silence is no request that costs money.
        waveform, rate = read_audio(sample.audio, sample.sampling_rate)
        file = io.BytesIO()
        soundfile.write(file, np.clip(waveform, -1, 1), rate, format="WAV", subtype="PCM_16")
        data = base64.b64encode(file.getvalue()).decode()
        content.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
    elif sample.question.strip():
        content.append({"type": "text", "text": sample.question})
    else:
        raise ValueError("The sample has neither audio nor a question.")
    if task.instruction:
        content.append({"type": "text", "text": task.instruction})
    return [{"role": "system", "content": SYSTEM_PROMPTS[task.prompt]}, {"role": "user", "content": content}]


def _read_answer(answer: Mapping[str, Any], seconds: float) -> Response:
    try:
        choice = answer["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        speech = message.get("audio") or {}
        # Spoken replies have no content: their text comes as the transcript of the audio.
        text = message.get("content") or speech.get("transcript") or ""
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise RequestFailed("The answer holds no message as the API describes it.") from error
    if not isinstance(text, str):
        raise RequestFailed("The answer's text is no text.")
    # Such as a content filter: what there is of the text is not a reply.
    if reason not in FINISH_REASONS:
        return failed_response(f"The server ended the reply with {reason!r}.", seconds)
    waveform, rate = _decode_audio(speech["data"]) if speech.get("data") else (None, Response.sampling_rate)
    # Optional in the API: many servers count no tokens.
    usage = answer.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else 0
    return Response(
        text=text.strip(),
        audio=waveform,
        sampling_rate=rate,
        finish_reason=FINISH_REASONS[reason],
        tokens=tokens if isinstance(tokens, int) else 0,
        seconds=seconds,
    )


def _decode_audio(data: Any) -> tuple[np.ndarray | None, int]:
    try:
        # Not checked like a question: silence is a reply, too.
        waveform, rate = decode(io.BytesIO(base64.b64decode(data)), "The answer's audio")
    except (TypeError, ValueError) as error:
        raise RequestFailed(f"The answer's audio is not WAV in base64 ({error}).") from error
    return (waveform if len(waveform) else None), rate
