"""Events that clients of `/v1/realtime` send, and the settings of a session."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .schemas import Body, GenerationKeys, Voice


class PcmFormat(Body):
    """The one format of sound: 16 bit, mono, little endian."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24_000] = 24_000


class TurnDetection(Body):
    """When the speaker's turn ends."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=5000)
    silence_duration_ms: int = Field(default=500, ge=20, le=10_000)
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout_ms: None = None


class Transcription(Body):
    """Transcripts of what the user says."""

    model: str | None = None
    language: str | None = None
    prompt: Literal[""] | None = None


class InputSettings(Body):
    """What is heard."""

    format: PcmFormat = PcmFormat()
    turn_detection: TurnDetection | None = TurnDetection()
    transcription: Transcription | None = None
    noise_reduction: None = None


class OutputSettings(Body):
    """What is said."""

    format: PcmFormat = PcmFormat()
    voice: Voice = "default"
    speed: Literal[1] = 1


class AudioSettings(Body):
    """Sound in and out."""

    input: InputSettings = InputSettings()
    output: OutputSettings = OutputSettings()


class ResponseSettings(Body):
    """What a response is like; for one response those that it gives itself come first."""

    output_modalities: list[Literal["text", "audio"]] = Field(default=["audio"], min_length=1, max_length=1)
    instructions: str = ""
    max_output_tokens: int | Literal["inf"] = "inf"
    generation: GenerationKeys = GenerationKeys()
    drafts: bool = False  # whether to tell of each denoising step
    tools: list[Any] = Field(default=[], max_length=0)
    tool_choice: Literal["auto", "none"] = "auto"
    metadata: Any = None


class SessionSettings(ResponseSettings):
    """Settings of a session."""

    type: Literal["realtime"] = "realtime"
    model: str | None = None
    audio: AudioSettings = AudioSettings()
    tracing: None = None
    truncation: Literal["auto"] = "auto"
    include: list[Any] | None = Field(default=None, max_length=0)


class Part(Body):
    """A part of a message."""

    type: Literal["input_text", "input_audio", "output_text", "text"]
    text: str | None = None
    audio: str | None = None
    transcript: str | None = None


class MessageItem(Body):
    """A message."""

    type: Literal["message"]
    role: Literal["system", "user", "assistant"]
    content: list[Part] = Field(min_length=1)
    id: str | None = Field(default=None, min_length=1, max_length=64)
    object: Literal["realtime.item"] | None = None
    status: Literal["completed"] | None = None


class ClientEvent(BaseModel):
    """An event of a client; what it holds besides depends on its type."""

    model_config = ConfigDict(extra="allow")

    type: str
    event_id: str | None = None


class Append(Body):
    """`input_audio_buffer.append`"""

    audio: str


class ItemCreate(Body):
    """`conversation.item.create`"""

    item: MessageItem
    previous_item_id: str | None = None


class ItemName(Body):
    """`conversation.item.delete`, `conversation.item.retrieve`"""

    item_id: str


class ItemTruncate(Body):
    """`conversation.item.truncate`"""

    item_id: str
    content_index: Literal[0] = 0
    audio_end_ms: int = Field(ge=0)


class SessionUpdate(Body):
    """`session.update`; a session is merged into the one before, key by key."""

    session: dict[str, Any]


class ResponseCreate(Body):
    """`response.create`"""

    response: dict[str, Any] | None = None


class ResponseCancel(Body):
    """`response.cancel`"""

    response_id: str | None = None


class Nothing(Body):
    """An event without fields of its own."""
