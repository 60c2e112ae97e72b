"""What an engine tells about its work, for those who measure it."""

from __future__ import annotations

from .events import End


class Monitor:
    """Receives what an engine does; its methods do nothing. They are called in the engine's threads."""

    def waiting(self, requests: int) -> None:
        """Receives the number of requests that wait for a slot, whenever it changes."""

    def ticked(self, rows: int, seconds: float) -> None:
        """Receives the number of rows of a forward step and how long it took."""

    def first_audio(self, seconds: float) -> None:
        """Receives the seconds from a request to its first samples."""

    def ended(self, end: End, seconds: float) -> None:
        """Receives a complete reply and the seconds from its request to its end."""

    def failed(self, error: BaseException) -> None:
        """Receives the error of a request that failed; `asyncio.CancelledError` if it was cancelled."""
