"""The judge stage: a language model judges the replies of a task, and its answers are recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...processes import Processes
from ..concepts import Judgement
from ..folder import TaskFolder, judgement_fingerprint
from ..store import JsonLinesFile


if TYPE_CHECKING:
    from ..llm_judge import Judge


def judge_task(folder: TaskFolder, judge: Judge, price: tuple[float, float] | None = None) -> None:
    """Judges the replies of a task that have no judgement yet, or one that failed.

    Args:
        folder: The run, with transcripts of spoken replies.
        price: Price of a million tokens that it reads, and of a million that it writes.

    Raises:
        ValueError: If spoken replies have not been transcribed.
        OSError: If the judge cannot be reached. Its answers up to then are kept.
    """
    with Processes().lock(folder.path):
        _judge_missing(folder, judge, price)


def _judge_missing(folder: TaskFolder, judge: Judge, price: tuple[float, float] | None) -> None:
    # Records come with the answers of the judge before: this one starts from the replies alone.
    records = [dataclasses.replace(record, judgements=()) for record in folder.records()]
    folder.update_settings(judge=judge.description, judge_price=price)
    # A reply with a failed answer is judged again in full: its line replaces the earlier one.
    known = {
        key for key, answers in folder.judgements_of(records, judge.description).items() if not _has_error(answers)
    }
    todo = {record.id: record for record in records if record.id not in known}
    # Each reply is written as soon as it is judged, because answers may cost money.
    with JsonLinesFile(folder.judgements) as file:
        answers = judge.ask(list(todo.values()))
        name = f"{folder.path.name}, judge"
        for sample, judgements in Processes().progress(answers, name, "reply", total=len(todo)):
            line = {
                "id": sample,
                "fingerprint": judgement_fingerprint(todo[sample], judge.description),
                "judgements": [dataclasses.asdict(judgement) for judgement in judgements],
            }
            file.append([line])


def _has_error(judgements: Sequence[Judgement]) -> bool:
    return any(judgement.error is not None for judgement in judgements)
