"""Scores a checkpoint on the held-out splits of the recipe's data, with reference scores beside it.

    python -m recipes.tiny.score --model ttt-tiny --out build/tiny
    python -m recipes.tiny.score --model ttt-tiny --out build/tiny --limit 8 audio_steps_per_block=8

Where there is no data yet, the held-out recordings are made first, which takes minutes. Results go into the folders
that `ttt-hf eval` writes: OUT/scores/checkpoint, and for reference OUT/scores/recordings (recordings of the reply
voice, transcribed as the replies are) and OUT/scores/codec (the same recordings, encoded and decoded first).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ttt_hf
from ttt_hf.loading import find_checkpoint
from ttt_hf.names import CODEC_FOLDER, EMBEDDED_NAME
from ttt_hf.overrides import split_override

from .held_out import write_tables
from .replay import RecordedReplies
from .settings import load_settings
from .synthesize import synthesize


TASKS = (
    "wording_asr",
    "wording_answers",
    "wording_written",
    "sums_asr",
    "sums_answers",
    "voice_asr",
    "voice_answers",
    "read_aloud",
)
REFERENCE_TASKS = ("reference_answers", "reference_sentences")


def score(model: str, out: Path, batch_size: int, limit: int | None = None, **generation: Any) -> None:
    """Scores a checkpoint; samples that an earlier run has answered are not generated again.

    Args:
        model: Name or folder of the checkpoint.
        out: The recipe's output root, with `data/`; results go into `scores/`.
        batch_size: Replies generated together.
        limit: Samples of each task, at most; then there are no headline numbers.
        **generation: Generation settings that differ from the checkpoint's.

    Raises:
        FileNotFoundError: The checkpoint or the data are missing.
        ValueError: The data lack a split, or a setting is wrong.
        ModuleNotFoundError: A package of the extra `eval` is missing.
    """
    codec_folder = find_checkpoint(model) / CODEC_FOLDER
    tables, scores = write_tables(out / "data"), out / "scores"

    def files(names: Sequence[str]) -> list[Path]:
        return [tables / f"{name}.yaml" for name in names]

    ttt_hf.evaluate(model, files(TASKS), out=scores / "checkpoint", batch_size=batch_size, limit=limit, **generation)
    # The reference replies: recordings as they are, and through the checkpoint's own codec.
    for name, replies in (("recordings", RecordedReplies()), ("codec", RecordedReplies(codec_folder))):
        ttt_hf.evaluate(replies, files(REFERENCE_TASKS), out=scores / name, limit=limit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the stage; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tiny.score",
        description="Scores a checkpoint on the held-out splits of the recipe's data.",
        epilog="example: python -m recipes.tiny.score --model ttt-tiny --out build/tiny --limit 8",
    )
    parser.add_argument("--model", default=EMBEDDED_NAME, help="name or folder of a checkpoint (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/tiny"), help="output root (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="samples of each task, at most")
    parser.add_argument("generation", nargs="*", metavar="KEY=VALUE", help="generation settings that differ")
    options = parser.parse_args(arguments)
    try:
        generation = dict(split_override(pair, "audio_steps_per_block=8") for pair in options.generation)
        settings = load_settings()
        # Whoever scores the embedded checkpoint may have no data: only the recordings that the tasks need are made.
        if not (options.out / "data" / "items.jsonl").is_file():
            synthesize(options.out, workers=settings.data.workers, held_out=True)
        score(options.model, options.out, settings.score.batch_size, options.limit, **generation)
    except (OSError, ValueError, RuntimeError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
