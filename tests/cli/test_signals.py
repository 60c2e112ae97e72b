"""SIGTERM ends every verb like Ctrl-C: one line, exit code 143, no half file, no worker left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from official_layout import text_tokenizer


pytestmark = pytest.mark.slow  # processes of their own, which load models

QUESTION = Path(__file__).resolve().parents[2] / "examples" / "question.wav"
# What shows that the verb is at work, and the command.
WORK = {
    "talk": (".reply.wav.*.part", "talk example --stream --out reply.wav"),
    "encode": ("codes/shard-*.parquet", "encode rows --task asr --out codes --workers 2 --shard-size 1"),
    "eval": ("scores/tiny_asr/*predictions*", "eval run tiny_asr --batch-size 1 --out scores"),
    "convert": (".grown.*.part", "convert from-text text-model grown --codec ttt-tiny"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows").mkdir()
    lines = ["file_name,text\n"]
    for number in range(60):
        shutil.copy(QUESTION, tmp_path / "rows" / f"{number}.wav")
        lines.append(f"{number}.wav,Row {number}.\n")
    (tmp_path / "rows" / "metadata.csv").write_text("".join(lines))
    # Large enough to be written for a while.
    config = Qwen2Config(vocab_size=300, hidden_size=1024, intermediate_size=4096, num_hidden_layers=12,
                         num_attention_heads=8, num_key_value_heads=2, eos_token_id=7)  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "text-model")
    text_tokenizer().save_pretrained(tmp_path / "text-model")
    return tmp_path


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while process.poll() is None and not condition() and time.monotonic() < end:
        time.sleep(0.002)


def is_gone(group: int) -> bool:
    """Whether all processes of a group end within seconds; those of Python itself notice the end a bit later."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("verb", WORK)
def test_sigterm(verb: str, folder: Path) -> None:
    pattern, command = WORK[verb]
    before = {path.name for path in folder.iterdir()}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ttt_hf", *command.split()],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: any(path.stat().st_size for path in folder.glob(pattern)), process)
    # To this process alone, not to its workers.
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert err.splitlines()[-1] == "ttt-hf: interrupted by SIGTERM"
    assert "Traceback" not in err
    assert verb == "talk" or not out
    assert not list(folder.rglob("*.part")) and not list(folder.rglob(".*.part*"))
    # Files under their final names are complete: those that a run continues with, or none.
    assert {path.name for path in folder.iterdir()} - before <= {"codes", "scores"}
    assert is_gone(process.pid), "a worker is left"
