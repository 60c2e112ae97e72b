"""What an engine takes on at most, and the errors of requests beyond it."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Limits of an engine.

    Args:
        slots: Requests that are decoded at the same time.
        queue: Requests that wait for a slot; more are refused.
        wait_seconds: How long a request waits for a slot.
        context: Tokens of prompt and reply together; the model's context at most.
        new_tokens: Tokens of a reply, text and speech, at most, whatever a request asks for.
        audio_seconds: Length of one recording in a request.

    Raises:
        ValueError: If a limit is not positive.
    """

    slots: int = 16
    queue: int = 64
    wait_seconds: float = 60.0
    context: int = 4096
    new_tokens: int = 2048
    audio_seconds: float = 300.0

    def __post_init__(self) -> None:
        for field in fields(self):
            # Written so that NaN is refused, too.
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} must be above 0, not {getattr(self, field.name)}.")


class OverloadedError(RuntimeError):
    """There is no room for a request now.

    Args:
        message: Why.
        retry_after: Seconds after which there may be room.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFullError(OverloadedError):
    """As many requests wait as may."""


class EngineClosedError(RuntimeError):
    """The engine is shutting down and takes no more requests."""
