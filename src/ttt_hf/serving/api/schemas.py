"""Bodies of requests: OpenAI's fields, and our generation keys beside them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...modeling.settings_ttt import AUDIO_GENERATION_KEYS


Task = Literal["chat", "asr", "tts", "audio", "text"]
AudioFormat = Literal["wav", "mp3", "flac", "opus", "aac", "pcm16", "pcm"]
# There is no other: a codec has the voice that it was trained with.
Voice = Literal["default"]
# Sampling at a lower temperature is greedy but for rounding.
LOWEST_TEMPERATURE = 0.01
TEXT_KEYS = ("top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens", "stop_strings")


class Body(BaseModel):
    """A body without unknown fields, as they would be misspelt or not do what is meant."""

    model_config = ConfigDict(extra="forbid")


class GenerationKeys(Body):
    """Keys of generation; what is not given is as in the checkpoint."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1, le=1000)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, ge=0.1, le=10)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    audio_block_length: int | None = Field(default=None, ge=1, le=1024)
    audio_steps_per_block: int | None = Field(default=None, ge=1, le=1024)
    audio_max_span_length: int | None = Field(default=None, ge=1, le=8192)
    audio_temperature: float | None = Field(default=None, ge=0, le=2)
    audio_cfg_scale: float | None = Field(default=None, ge=0, le=10)
    audio_remasking: Literal["low_confidence", "random", "entropy", "margin"] | None = None
    audio_confidence_threshold: float | None = Field(default=None, ge=0, le=1)
    audio_entropy_bound: float | None = Field(default=None, ge=0)
    min_text_tokens_after_audio: int | None = Field(default=None, ge=0, le=1000)
    text_repetition_limit: int | None = Field(default=None, ge=4, le=8192)
    task: Task | None = None

    def generation(self, **more: Any) -> dict[str, Any]:
        """Arguments of `generate()`, those of `more` among them; `None` means the checkpoint's own."""
        values = {**self.model_dump(include={*AUDIO_GENERATION_KEYS, *TEXT_KEYS}), **more}
        arguments = {name: value for name, value in values.items() if value is not None}
        if self.temperature is not None:
            arguments["do_sample"] = self.temperature >= LOWEST_TEMPERATURE
            if arguments["do_sample"]:
                arguments["temperature"] = self.temperature
        return arguments


class AudioOptions(Body):
    """How speech is wanted."""

    voice: Voice = "default"
    format: AudioFormat = "wav"


class StreamOptions(Body):
    """What a stream holds."""

    include_usage: bool = False
    include_obfuscation: bool = False


class PlainText(Body):
    """The one format of a response."""

    type: Literal["text"]


class ChatRequest(GenerationKeys):
    """Body of `/v1/chat/completions`."""

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    modalities: list[Literal["text", "audio"]] | None = None
    audio: AudioOptions | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: str | list[str] | None = None
    return_token_ids: bool = False
    # Fields of OpenAI that can have one value here
    n: Literal[1] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    response_format: PlainText | None = None
    tools: list[Any] | None = Field(default=None, max_length=0)
    # Fields of OpenAI that change nothing in a reply
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    parallel_tool_calls: Any = None


class SpeechRequest(GenerationKeys):
    """Body of `/v1/audio/speech`."""

    model: str
    input: str = Field(min_length=1)
    voice: Voice = "default"
    response_format: AudioFormat = "mp3"
    speed: Literal[1] | None = None
    instructions: Literal[""] | None = None
    stream_format: Literal["audio"] | None = None


class TranscriptionForm(GenerationKeys):
    """Fields of `/v1/audio/transcriptions` beside the file."""

    model: str
    language: str | None = Field(default=None, max_length=40)
    prompt: Literal[""] | None = None
    response_format: Literal["json", "text", "verbose_json"] = "json"
    stream: bool = False
