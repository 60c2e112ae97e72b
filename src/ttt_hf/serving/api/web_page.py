"""The web page: files, what it has to know of the model, and a recorded question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse

from ...names import EMBEDDED_NAMES, EXAMPLE_QUESTION
from .service import Service


FOLDER = Path(__file__).with_name("page")
# Browsers fetch from this server alone, whatever the page says.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'"
    ),
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # The page belongs to its server: that of another version would not fit.
    "Cache-Control": "no-cache",
}
SHOWN_DEFAULTS = (
    "audio_steps_per_block", "audio_confidence_threshold", "audio_entropy_bound", "audio_temperature", "temperature",
)  # fmt: skip


def add_page(app: FastAPI, service: Service, can_be_framed: bool) -> None:
    """Adds the page and its files to an application.

    Args:
        app: The application.
        service: The engine that the page talks to, by `/v1/realtime`.
        can_be_framed: Whether pages of others may show it within theirs, as the Hub does with a Space.
    """
    headers = dict(HEADERS)
    if not can_be_framed:
        headers["Content-Security-Policy"] += "; frame-ancestors 'none'"
    for file in FOLDER.iterdir():
        _add_file(app, "/" if file.name == "index.html" else f"/{file.name}", file, headers)
    _add_file(app, "/example", EXAMPLE_QUESTION, headers)

    @app.get("/about.json", response_model=None)
    async def about() -> JSONResponse:
        return JSONResponse(describe(service), headers=headers)


def _add_file(app: FastAPI, path: str, file: Path, headers: dict[str, str]) -> None:
    @app.get(path, response_model=None)
    async def read() -> FileResponse:
        return FileResponse(file, headers=headers)


def describe(service: Service) -> dict[str, Any]:
    """What the page shows of the model: its name, its rate, and its defaults of generation."""
    engine = service.engine
    generation = engine.model.generation_config
    defaults = {name: getattr(generation, name, None) for name in SHOWN_DEFAULTS}
    if not generation.do_sample:
        defaults["temperature"] = 0
    return {
        "model": service.name,
        # The embedded model was trained on single questions: earlier turns would confuse it.
        "has_dialogues": service.name not in EMBEDDED_NAMES,
        "frame_rate": engine.processor.codec.config.frame_rate,
        "max_seconds": engine.limits.audio_seconds,
        "defaults": {name: value for name, value in defaults.items() if value is not None},
    }
