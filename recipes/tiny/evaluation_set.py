"""Builds the small evaluation set inside the package: held-out spoken questions, and sentences to read aloud.

    python -m recipes.tiny.evaluation_set --data build/tiny/data --out src/ttt_hf/evaluation/tiny_set

The rows are the first rows of the tables that the scores of the model card come from (`held_out.py`). Recordings are
stored as Ogg Opus, a seventh of the size of the WAV files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import soundfile

from ttt_hf.atomic_files import check_folder

from .held_out import SPOKEN_SPLITS, draw_items, sentence_row, spoken_questions
from .tables import Row, write_rows


# Spoken questions by split, and sentences.
SIZES = {"wording": 60, "sums": 20, "voice": 20, "sentences": 40}
# Of libsndfile's Opus encoder, from 0 (largest) to 1.
COMPRESSION_LEVEL = 0.87


def build_evaluation_set(data: Path, out: Path) -> None:
    """Writes `questions.jsonl`, `sentences.jsonl` and `audio/`.

    Args:
        data: Folder with the recipe's `items.jsonl`, `utterances.jsonl` and audio.
        out: Folder to write into.

    Raises:
        FileNotFoundError: The data have not been made yet.
        FileExistsError: The folder holds recordings already: old and new ones would mix.
    """
    check_folder(out)
    if (out / "audio").exists():
        raise FileExistsError(f"{out / 'audio'} is there already: delete it, or name another folder.")
    # Both lists are read before the first file is written, so that missing data leave nothing behind.
    questions = [row for split in SPOKEN_SPLITS for row in spoken_questions(data, split)[: SIZES[split]]]
    sentences = [sentence_row(item) for item in draw_items(data, "sentences")[: SIZES["sentences"]]]
    # The folder of recordings first: it must be new, while the tables may be replaced.
    (out / "audio").mkdir(parents=True)
    write_rows(out / "questions.jsonl", [_compressed(row, data, out) for row in questions])
    write_rows(out / "sentences.jsonl", sentences)


def _compressed(row: Row, data: Path, out: Path) -> Row:
    """Writes the recording of a question as Opus; returns the row that names the new file."""
    waveform, rate = soundfile.read(data / row["audio"], dtype="float32")
    audio = f"audio/{row['id']}.ogg"
    soundfile.write(out / audio, waveform, rate, format="OGG", subtype="OPUS", compression_level=COMPRESSION_LEVEL)
    return {**row, "audio": audio, "seconds": round(row["seconds"], 3)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tiny.evaluation_set",
        description="Builds the small evaluation set inside the package.",
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
