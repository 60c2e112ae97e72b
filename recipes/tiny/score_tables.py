"""The scores of a checkpoint in Markdown, for its model card and for the repository's README.

Every number is read from the folders that the stage score wrote (`score.py`); none is typed by hand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt_hf.atomic_files import atomic_write
from ttt_hf.evaluation import TaskFolder
from ttt_hf.evaluation.report.model_index import update_model_card

from .score import REFERENCE_TASKS, TASKS
from .tables import read_rows


Results = Mapping[str, Any]

RUNS = {"checkpoint": TASKS, "recordings": REFERENCE_TASKS, "codec": REFERENCE_TASKS}
COMMAND = "python -m recipes.tiny.score --model ttt-tiny --out build/tiny"
PACKAGES = ("python", "ttt-hf", "torch", "transformers", "faster-whisper", "jiwer", "whisper-normalizer")


@dataclass(frozen=True)
class Line:
    """One line of the table of scores.

    Args:
        task: Task that was scored, see `tasks/`.
        metric: Name of a metric in its `results.json`.
        text: Label of the line.
        aim: Target of the recipe, such as `"<= 2 %"`; may be empty.
    """

    task: str
    metric: str
    text: str
    aim: str = ""


LINES = (
    Line("wording_asr", "wer", "held-out wordings, known voices: transcription, word error rate", "<= 2 %"),
    Line("wording_answers", "accuracy_text", "held-out wordings, known voices: correct answers", ">= 97 %"),
    Line("wording_answers", "wer_speech_vs_text", "spoken answers against their own text: word error rate", "<= 8 %"),
    Line("sums_answers", "accuracy", "held-out sums: correct answers", ">= 80 %"),
    Line("sums_asr", "wer", "held-out sums: transcription, word error rate"),
    Line("read_aloud", "wer_speech", "held-out sentences, read aloud: word error rate", "<= 15 %"),
    Line("voice_asr", "wer", "unseen voice: transcription, word error rate", "<= 25 %"),
    Line("voice_answers", "accuracy", "unseen voice: correct answers", ">= 60 %"),
    Line("wording_written", "accuracy", "held-out wordings, asked in writing: correct answers"),
)


@dataclass(frozen=True)
class Scores:
    """Results that the stage `score` has written.

    Args:
        out: The recipe's output root.
        results: Run -> task -> content of its `results.json`; the runs are those of `RUNS`.
    """

    out: Path
    results: Mapping[str, Mapping[str, Results]]

    @property
    def checkpoint(self) -> Mapping[str, Results]:
        """Results of the checkpoint's tasks."""
        return self.results["checkpoint"]


def read_scores(out: Path) -> Scores:
    """Reads the results of a checkpoint and the reference scores.

    Args:
        out: The recipe's output root, with `scores/`.

    Returns:
        The scores.

    Raises:
        FileNotFoundError: The checkpoint has not been scored.
        ValueError: Only a part of the held-out data was scored.
    """
    results: dict[str, dict[str, Results]] = {}
    for run, tasks in RUNS.items():
        folders = {task: TaskFolder(out / "scores" / run / task) for task in tasks}
        for folder in folders.values():
            if not folder.results.is_file():
                raise FileNotFoundError(f"There is no {folder.results}: run the stage score first.")
        results[run] = {task: folder.read_results() for task, folder in folders.items()}
        for task, entry in results[run].items():
            # A run with a limit has no headline numbers; its rates would look like those of all data.
            if entry["headline"] is None:
                raise ValueError(f"{folders[task].path} was scored in part: run the stage score without --limit.")
    return Scores(out, results)


def aims_are_met(scores: Scores) -> bool:
    """Whether every value reaches its target; a missing value does not."""
    for line in LINES:
        if line.aim:
            value = scores.checkpoint[line.task]["metrics"][line.metric]["value"]
            # The form of every aim: sign, number, "%".
            sign, percent, _ = line.aim.split()
            if value is None or (100 * value > float(percent) if sign == "<=" else 100 * value < float(percent)):
                return False
    return True


def score_block(scores: Scores) -> str:
    """Renders the table of scores and the notes below it in Markdown."""
    rows = []
    for line in LINES:
        metric = scores.checkpoint[line.task]["metrics"][line.metric]
        rows.append((line.text, line.aim, f"**{_percent(metric)}**", _interval(metric), str(metric["n"])))
    table = markdown_table(("what", "aim", "measured", "95 % interval", "n"), rows)
    return "\n\n".join([table, *_notes(scores)])


def breakdown_block(scores: Scores) -> str:
    """Renders the scores of spoken questions by family and by voice in Markdown."""
    columns = (("wording_asr", "wer"), ("wording_answers", "accuracy_text"), ("wording_answers", "wer_speech_vs_text"))
    families = [_rates(scores, task, metric, "family") for task, metric in columns]
    voices: list[tuple[str, ...]] = []
    # The unseen voice asks in its own split, whose line in the table of scores has the metric `accuracy`.
    for split, metric in (("wording", "accuracy_text"), ("voice", "accuracy")):
        transcripts = _rates(scores, f"{split}_asr", "wer", "voice")
        for voice, (share, count) in _rates(scores, f"{split}_answers", metric, "voice").items():
            voices.append((f"`{voice}`", _format(transcripts[voice][0]), _format(share), str(count)))
    rows = [
        (family, *(_format(column[family][0]) for column in families), str(families[0][family][1]))
        for family in families[0]
    ]
    return "\n\n".join(
        [
            "Held-out wordings, known voices, by family:",
            markdown_table(("family", "transcription WER", "correct answers", "spoken answer WER", "n"), rows),
            "Spoken questions in held-out wordings, by voice:",
            markdown_table(("voice", "transcription WER", "correct answers", "n"), voices),
        ]
    )


def fill_scores(path: Path, scores: Scores) -> None:
    """Writes scores into a Markdown file: between its marks, and into the metadata of a model card.

    Args:
        path: The file. It must have the marks of the block `scores` and may have those of `breakdown`.
        scores: The scores.

    Raises:
        ValueError: A mark is missing.
    """
    text = _filled(path, path.read_text(encoding="utf-8"), "scores", score_block(scores))
    if "<!-- breakdown:begin -->" in text:
        text = _filled(path, text, "breakdown", breakdown_block(scores))
    # Only a model card begins with metadata.
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
        if text.startswith("---\n"):
            update_model_card(part, list(scores.checkpoint.values()))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Renders a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _filled(path: Path, text: str, name: str, block: str) -> str:
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, has_begin, rest = text.partition(begin)
    _, has_end, tail = rest.partition(end)
    if not (has_begin and has_end):
        raise ValueError(f"{path} lacks the line {begin} or, after it, {end}: add them where the scores belong.")
    return f"{head}{begin}\n{block}\n{end}{tail}"


def _notes(scores: Scores) -> list[str]:
    answers, read = scores.checkpoint["wording_answers"], scores.checkpoint["read_aloud"]
    transcriber, generation = answers["transcriber"], answers["model"]["generation"]
    spoken = [answers, read]
    # Replies with an empty transcript, and replies that were cut by the length limit or failed.
    silent = sum(entry["counts"]["silent"] for entry in spoken)
    cut = sum(entry["n_truncated"] + entry["n_failed"] for entry in spoken)
    reference = {
        (run, task): _percent(scores.results[run][task]["metrics"]["wer_speech"])
        for run in ("recordings", "codec")
        for task in REFERENCE_TASKS
    }
    versions = {**answers["versions"]["scoring"], **answers["versions"]["run"]}
    rules = {"confidence threshold": "audio_confidence_threshold", "entropy bound": "audio_entropy_bound"}
    given = [f"{name} {generation[key]:g}" for name, key in rules.items() if generation.get(key) is not None]
    early = f" at most, {', '.join(given)}" if given else ""
    return [
        "Reference scores, the transcriber's own word error rates on recordings of the reply voice: "
        f"{reference['recordings', 'reference_answers']} on answers and "
        f"{reference['recordings', 'reference_sentences']} on sentences; on the same recordings, encoded and decoded "
        f"by the codec, {reference['codec', 'reference_answers']} and {reference['codec', 'reference_sentences']}.",
        f"Of the {sum(entry['n_scored'] for entry in spoken)} spoken replies, {silent} were silent and {cut} did not "
        "end by themselves. Such replies count as wrong, and the words they lack as deletions.",
        "An answer is correct if it equals the expected sentence after Whisper's English normalization. Speech is "
        f"transcribed by {transcriber['model']} (beam {transcriber['beam_size']}). Decoding: blocks of "
        f"{generation['audio_block_length']} codes in {generation['audio_steps_per_block']} steps{early}, audio "
        f"temperature {generation['audio_temperature']}, seed {generation['seed']}. Measured with "
        f"{', '.join(f'{name} {versions[name]}' for name in PACKAGES if name in versions)}:",
        f"```text\n{COMMAND}\n```",
    ]


def _rates(scores: Scores, task: str, metric: str, column: str) -> dict[str, tuple[float | None, int]]:
    """Group -> rate and number of samples, for the groups that a column of the task's table names."""
    # Scores have only the ids of samples; the groups are in the table of the split, `wording.jsonl` for `wording_asr`.
    groups = {
        row["id"]: row[column] for row in read_rows(scores.out / "data" / "eval" / f"{task.split('_')[0]}.jsonl")
    }
    sums: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in read_rows(TaskFolder(scores.out / "scores" / "checkpoint" / task).scores):
        sums[groups[row["id"]]].append(row["values"][metric])
    rates = {}
    for group, values in sorted(sums.items()):
        # A rate of sums, as in the metric itself: not the mean of the rates of its samples.
        numerator, denominator = (sum(part) for part in zip(*values))
        rates[group] = (numerator / denominator if denominator else None, len(values))
    return rates


def _percent(metric: Mapping[str, Any]) -> str:
    return _format(metric["value"])


def _format(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"


def _interval(metric: Mapping[str, Any]) -> str:
    return "" if metric["low"] is None else f"{100 * metric['low']:.1f} to {100 * metric['high']:.1f}"
