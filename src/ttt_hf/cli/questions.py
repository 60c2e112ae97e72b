"""What `ttt-hf talk` is asked, and where each answer goes: questions, turns of dialogues, and their files."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ..names import EXAMPLE_QUESTION
from .errors import UsageError


# A QUESTION that needs no file: the recording comes with the package.
EXAMPLE = "example"
STDIN = "-"


@dataclass(frozen=True)
class Turn:
    """One question of the user.

    Attributes:
        kind: `"audio"` or `"text"`.
        words: The text, or as which the audio was given: a file, an address, `-`, or `example`.
        out: Where the spoken answer goes, if anywhere.
    """

    kind: str
    words: str
    out: Path | None = None

    def read(self) -> dict[str, Any]:
        """Reads the question; returns a content item of a message."""
        if self.kind == "text":
            return {"type": "text", "text": self.words}
        from ..processing.audio import read_audio

        # A file of that name is what the user means.
        is_example = self.words == EXAMPLE and not Path(EXAMPLE).exists()
        samples, rate = read_audio(str(EXAMPLE_QUESTION) if is_example else self.words)
        return {"type": "audio", "audio": samples, "sampling_rate": rate}


def find_dialogues(args: argparse.Namespace) -> list[list[Turn]]:
    """The turns of each dialogue: one for each question, or one question and its follow-ups.

    Args:
        args: Those of `ttt-hf talk`, checked one by one.

    Raises:
        UsageError: If questions and `--out` do not fit together.
    """
    questions = [Turn("audio", words) for words in args.question] or [Turn("text", args.text)]
    follow_ups = [Turn(kind, words) for kind, words in args.follow_up]
    if [turn.words for turn in [*questions, *follow_ups] if turn.kind == "audio"].count(STDIN) > 1:
        raise UsageError("Standard input (-) can be read only once.")
    dialogues = []
    for first in questions:
        out = _answer_file(first, args.out, len(questions) > 1)
        turns = enumerate([first, *follow_ups], 1)
        dialogues.append([replace(turn, out=_numbered(out, number)) for number, turn in turns])
    _check_files([turn for turns in dialogues for turn in turns])
    return dialogues


def _answer_file(question: Turn, out: Path | None, is_one_of_several: bool) -> Path | None:
    """The file of the first answer of a dialogue: `out` itself, or a file in it that is called like the question."""
    if out is None:
        return None
    is_file = out.suffix.lower() == ".wav"
    if not is_one_of_several and (is_file or not out.is_dir()):
        if not is_file:
            raise UsageError(f"--out writes WAV: {out} must end in .wav.")
        return out
    if is_file:
        raise UsageError(f"Several questions have several answers: name a folder in --out, not {out}.")
    if question.kind == "text":
        return out / "answer.wav"
    if question.words == STDIN:
        return out / "stdin.wav"
    path = urlsplit(question.words).path if "://" in question.words else question.words
    return out / f"{PurePosixPath(path).stem or 'answer'}.wav"


def _numbered(first: Path | None, number: int) -> Path | None:
    """The file of a further answer of a dialogue: reply.wav, reply-2.wav, ..."""
    return first if first is None or number == 1 else first.with_name(f"{first.stem}-{number}{first.suffix}")


def _check_files(turns: list[Turn]) -> None:
    """Checks that no answer replaces another one or a question."""
    questions = {Path(turn.words).resolve(): turn.words for turn in turns if turn.kind == "audio"}
    seen: dict[Path, Turn] = {}
    for turn in turns:
        if turn.out is None:
            continue
        if turn.out.resolve() in questions:
            raise UsageError(f"The answer would replace the question {turn.words}: name another place in --out.")
        if turn.out in seen:
            raise UsageError(
                f"The answers to {seen[turn.out].words} and {turn.words} would both be {turn.out}: ask in two runs."
            )
        seen[turn.out] = turn
