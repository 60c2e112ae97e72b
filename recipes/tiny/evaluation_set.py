"""Chooses the small evaluation set that the package ships: held-out spoken questions, and sentences to read aloud.

    python -m recipes.tiny.evaluation_set --data build/tiny/data --out src/ttt_hf/evaluation/tiny_set

The cases are the first of the draw that the model card's measurement makes (`draw_cases`, seed 0), so that the set is
a part of what the card was measured on. Recordings are stored as Ogg Opus, about a seventh of the WAV files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile

from ttt_hf.atomic_files import check_folder, whole_file

from .cases import Case, draw_cases


# Spoken questions by split, and sentences.
SIZES = {"wording": 60, "sums": 20, "voice": 20, "sentences": 40}
SEED = 0
# Of libsndfile's Opus encoder, from 0 (largest) to 1.
COMPRESSION_LEVEL = 0.87


def build_evaluation_set(data: Path, out: Path) -> None:
    """Writes `questions.jsonl`, `sentences.jsonl` and `audio/`.

    Args:
        data: Folder with the recipe's `items.jsonl`, `utterances.jsonl` and audio.
        out: Folder to write into.

    Raises:
        FileNotFoundError: If the data is not there.
        FileExistsError: If the folder holds recordings already: old and new ones would mix.
    """
    check_folder(out)
    if (out / "audio").exists():
        raise FileExistsError(f"{out / 'audio'} is there already: delete it, or name another folder.")
    cases = {split: draw_cases(data, split, size, SEED) for split, size in SIZES.items()}
    (out / "audio").mkdir(parents=True)
    questions = [_question(case, out) for split in ("wording", "sums", "voice") for case in cases[split]]
    _write_rows(out / "questions.jsonl", questions)
    _write_rows(out / "sentences.jsonl", [{"id": _name(case), "text": case.answer} for case in cases["sentences"]])


def _question(case: Case, out: Path) -> dict[str, Any]:
    """The row of a spoken question; writes its recording."""
    if case.audio is None:
        raise ValueError(f"The item {case.id} has no recording: make the data anew.")
    waveform, rate = soundfile.read(case.audio, dtype="float32")
    audio = f"audio/{_name(case)}.ogg"
    soundfile.write(out / audio, waveform, rate, format="OGG", subtype="OPUS", compression_level=COMPRESSION_LEVEL)
    return {
        "id": _name(case),
        "split": case.split,
        "family": case.family,
        "voice": case.voice,
        "question": case.question,
        "answer": case.answer,
        "audio": audio,
        "seconds": round(case.seconds, 3),
    }


def _name(case: Case) -> str:
    """The item's id and, of a spoken one, who asks, as a file name: no voice asks the same thing twice."""
    if case.voice is None:
        return case.id.replace("/", "-")
    return "-".join([*case.id.split("/")[:-1], case.voice])


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with whole_file(path) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tiny.evaluation_set",
        description="Chooses the small evaluation set that the package ships.",
        epilog="example: python -m recipes.tiny.evaluation_set --data build/tiny/data --out tiny_set",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with items.jsonl and utterances.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(arguments)
    try:
        build_evaluation_set(options.data, options.out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
