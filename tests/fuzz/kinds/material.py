"""Sound files that several kinds start from."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

import torch

from fixed_reply import make_codec, make_model, tone, write_wav
from ttt_hf.cli.main import main
from ttt_hf.processing import TtTProcessor, train_tokenizer

from ..mutations import Damage


RATE = 16_000
TEXTS = ("Hello there.", "Read this aloud: hello.", "What is two plus three?")


def write_checkpoint(folder: Path) -> None:
    """A complete checkpoint with its codec; it always says "Hi", speaks, and is small."""
    torch.manual_seed(0)
    processor = TtTProcessor(train_tokenizer(list(TEXTS), 270, 75), make_codec())
    make_model(processor.tokenizer).save_pretrained(folder)
    processor.save_pretrained(folder)


def write_recordings(folder: Path, count: int = 6) -> list[dict[str, str]]:
    """Recordings of half a second, and the rows that describe them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        write_wav(folder / f"{number}.wav", tone(0.5 + 0.1 * number, RATE), RATE)
        rows.append({"id": str(number), "audio": f"{number}.wav", "text": TEXTS[number % len(TEXTS)]})
    return rows


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def run(*arguments: object) -> None:
    """Runs a command that makes material; what it prints is kept for the case that it fails."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main([str(argument) for argument in arguments])
    if code:
        raise RuntimeError(printed.getvalue())


def link(source: Path, target: Path) -> Path:
    """Copies a folder by hard links, which cost nothing; a damaged file is written anew."""
    for path in source.rglob("*"):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            os.link(path, copy)
    return target


def pick_file(damage: Damage, folder: Path, *patterns: str) -> Path:
    """One of the files that match, the same for the same seed."""
    return damage.choice(sorted(path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()))
