"""The stage judge: a language model looks at the replies of a task, and its answers are recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..concepts import Judgement
from ..folder import TaskFolder, judgement_fingerprint
from ..processes import Processes
from ..store import RowFile
from .answer import progress


if TYPE_CHECKING:
    from ..llm_judge import Judge


def judge_task(folder: TaskFolder, judge: Judge, price: tuple[float, float] | None = None) -> None:
    """Has the replies of a task judged that have not been yet. What the judge could not answer is asked once more.

    Args:
        folder: Where the replies, and for spoken ones their transcripts, are.
        judge: Who judges.
        price: What a million tokens cost that it reads, and that it writes.

    Raises:
        ValueError: If spoken replies have not been transcribed.
        OSError: If the judge cannot be reached. What it has answered is kept.
    """
    records = [dataclasses.replace(record, judgements=()) for record in folder.records()]
    folder.update_settings(judge=judge.description, judge_price=price)
    known = {
        key for key, answers in folder.judgements_of(records, judge.description).items() if not _has_error(answers)
    }
    todo = {record.id: record for record in records if record.id not in known}
    with RowFile(folder.judgements) as file:
        answers = judge.ask(list(todo.values()))
        for sample, judgements in progress(
            answers, f"{folder.path.name}, judge", "reply", Processes(), total=len(todo)
        ):
            row = {
                "id": sample,
                "fingerprint": judgement_fingerprint(todo[sample], judge.description),
                "judgements": [dataclasses.asdict(judgement) for judgement in judgements],
            }
            file.append([row])


def _has_error(judgements: Sequence[Judgement]) -> bool:
    return any(judgement.error is not None for judgement in judgements)
