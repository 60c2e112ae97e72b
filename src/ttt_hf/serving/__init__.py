"""Serving: one model that answers many requests at the same time.

`Engine` is for Python; `api/` is the API server, which needs the extra `serve`.
"""

from .engine import Engine
from .events import Audio, Codes, Draft, End, Event, Text
from .generation import Generation
from .limits import EngineClosedError, Limits, OverloadedError, QueueFullError
from .monitor import Monitor


__all__ = [
    "Audio",
    "Codes",
    "Draft",
    "End",
    "Engine",
    "EngineClosedError",
    "Event",
    "Generation",
    "Limits",
    "Monitor",
    "OverloadedError",
    "QueueFullError",
    "Text",
]
