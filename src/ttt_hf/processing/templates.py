"""Chat templates: ours is rendered here, any other in a process with limits, since it came with a checkpoint."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import get_json_schema
from transformers.utils.chat_template_utils import render_jinja_template

from .tokenization import default_chat_template


WORKER = Path(__file__).with_name("template_worker.py")
START_SECONDS = 300.0
RENDER_SECONDS = 60.0  # for systems that do not limit the time of computation
# Of transformers' `apply_chat_template`; as variables of the template they would be ignored.
UNSUPPORTED = (
    "add_special_tokens", "load_audio_from_video", "max_length", "processor_kwargs", "return_assistant_tokens_mask",
    "return_offsets_mapping", "tokenizer_kwargs", "truncation",
)  # fmt: skip


def render_prompts(conversations: Sequence[Sequence[Mapping[str, Any]]], template: str, **variables: Any) -> list[str]:
    """Renders conversations.

    Args:
        conversations: Messages as `normalise_conversation` gives them.
        template: Jinja source.
        **variables: Variables of the template, and the options of `render_jinja_template`.

    Returns:
        The prompt of each conversation.

    Raises:
        ValueError: If the template cannot be rendered, takes too long or too much memory, or an option is not
            supported.
    """
    for name in UNSUPPORTED:
        if variables.pop(name, None):
            raise ValueError(f"{name} is not supported by this processor: leave it out.")
    for name in ("tools", "documents"):
        if variables.get(name) and name not in template:
            raise ValueError(f"The chat template does not use {name}: leave them out, or take another template.")
    arguments = {**variables, "conversations": conversations, "chat_template": template}
    if template == default_chat_template():
        return render_jinja_template(**arguments)[0]
    if variables.get("tools"):
        arguments["tools"] = [tool if isinstance(tool, dict) else get_json_schema(tool) for tool in variables["tools"]]
    # What is no JSON is only asked for its presence, as in transformers.
    request = json.dumps(arguments, default=lambda value: f"<{type(value).__name__}>")
    with _lock:
        answer = _ask(request)
    if "error" in answer:
        reason = answer["error"].rstrip(".")
        raise ValueError(f"The chat template cannot be used: {reason}. Pass chat_template=... of your own.")
    return answer["prompts"]


_lock = threading.Lock()
_worker: subprocess.Popen[str] | None = None


def _ask(request: str) -> dict[str, Any]:
    if _worker is None or _worker.poll() is not None:
        _start()
    if _worker is None or not (answer := _exchange(_worker, request + "\n", RENDER_SECONDS)):
        _stop()
        return {"error": "it takes too long or too much memory"}
    return json.loads(answer)


def _exchange(worker: subprocess.Popen[str], line: str, seconds: float) -> str:
    """Writes a line and waits for one; empty if the process has died, as it does after `seconds`."""
    timer = threading.Timer(seconds, worker.kill)
    timer.start()
    try:
        worker.stdin.write(line)
        worker.stdin.flush()
        return worker.stdout.readline()
    except OSError:
        return ""
    except BaseException:
        # An interruption: the answer would be taken for that to the next request.
        worker.kill()
        worker.wait()
        raise
    finally:
        timer.cancel()


def _start() -> None:
    global _worker
    _stop()
    # The same packages as in this process.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    _worker = subprocess.Popen(
        [sys.executable, str(WORKER)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    if not _exchange(_worker, "", START_SECONDS):
        _stop()
        raise OSError(f"{sys.executable} does not start, which renders chat templates: pass chat_template=None.")


def _stop() -> None:
    global _worker
    if _worker is not None:
        _worker.kill()
        _worker.communicate()
        _worker = None


def _forget() -> None:
    """In a forked process: the worker answers the one that started it."""
    global _worker, _lock
    _worker, _lock = None, threading.Lock()


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
