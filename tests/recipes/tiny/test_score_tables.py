"""Scores in Markdown: every number from the files, and nothing lost on the way."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml

from recipes.tiny import score_tables
from recipes.tiny.score_tables import LINES, Scores, read_scores


MARKS = ("<!-- scores:begin -->", "<!-- scores:end -->")
BREAKDOWN = ("<!-- breakdown:begin -->", "<!-- breakdown:end -->")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def scores(scored: Path) -> Scores:
    read = read_scores(scored)
    return dataclasses.replace(read, results=copy.deepcopy(read.results))


def test_the_table_shows_every_measured_number(scores: Scores) -> None:
    table = score_tables.score_block(scores).split("\n\n")[0].splitlines()
    assert len(table) == 2 + len(LINES)
    for line, row in zip(LINES, table[2:], strict=True):
        metric = scores.checkpoint[line.task]["metrics"][line.metric]
        value, low, high = (100 * metric[name] for name in ("value", "low", "high"))
        numbers = f"**{value:.1f} %** | {low:.1f} to {high:.1f} | {metric['n']}"
        assert row == f"| {line.text} | {line.aim} | {numbers} |"


def test_a_number_that_was_not_measured_is_not_made_up(scores: Scores) -> None:
    scores.checkpoint["sums_answers"]["metrics"]["accuracy"].update(value=None, low=None, high=None)
    assert "| **not measured** |  | 4 |" in score_tables.score_block(scores)


def test_the_notes_say_how_it_was_measured(scores: Scores) -> None:
    for run, task, value in (
        ("recordings", "reference_answers", 0.0137),
        ("codec", "reference_sentences", 0.0268),
    ):
        scores.results[run][task]["metrics"]["wer_speech"]["value"] = value
    scores.checkpoint["read_aloud"]["counts"]["silent"] = 7
    before = scores.checkpoint["wording_answers"]["counts"]["silent"]
    notes = score_tables.score_block(scores)
    for part in ("1.4 %", "2.7 %", "seed 0", "audio temperature 0.7", "torch", "jiwer"):
        assert part in notes
    assert f"Of the 6 spoken replies, {before + 7} were silent" in notes
    assert score_tables.COMMAND in notes


def test_a_missed_aim_is_noticed(scores: Scores) -> None:
    for line in LINES:
        metric = scores.checkpoint[line.task]["metrics"][line.metric]
        metric["value"] = 1.0 if line.aim.startswith(">=") else 0.0
    assert score_tables.aims_are_met(scores)
    for task, metric, value in (
        ("wording_asr", "wer", 0.021),
        ("wording_answers", "accuracy_text", 0.969),
        ("read_aloud", "wer_speech", None),
    ):
        missed = dataclasses.replace(scores, results=copy.deepcopy(scores.results))
        missed.checkpoint[task]["metrics"][metric]["value"] = value
        assert not score_tables.aims_are_met(missed)


def test_families_and_voices_add_up_to_the_task(scores: Scores) -> None:
    metric = scores.checkpoint["wording_asr"]["metrics"]["wer"]
    for column, groups in (("family", {"color", "kind"}), ("voice", {"espeak-us", "flite-slt"})):
        rates = score_tables._rates(scores, "wording_asr", "wer", column)
        assert set(rates) == groups
        assert sum(count for _, count in rates.values()) == metric["n"]
        values = [rate for rate, _ in rates.values() if rate is not None]
        assert min(values) <= metric["value"] <= max(values)
    block = score_tables.breakdown_block(scores)
    assert "| `flite-rms` |" in block and "| color |" in block


def test_a_checkpoint_that_was_scored_in_part_or_not_at_all_has_no_scores(scored: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the stage score first"):
        read_scores(tmp_path)
    shutil.copytree(scored / "scores", tmp_path / "scores")
    path = tmp_path / "scores" / "checkpoint" / "voice_asr" / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "headline": None}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"voice_asr was scored in part"):
        read_scores(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="voice_asr"):
        read_scores(tmp_path)


def test_a_readme_gets_the_scores_between_its_marks(tmp_path: Path, scores: Scores) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{MARKS[0]}\nold numbers\n{MARKS[1]}\n\nMore.\n", encoding="utf-8")
    score_tables.fill_scores(readme, scores)
    filled = readme.read_text(encoding="utf-8")
    assert filled.startswith(f"# Title\n\n{MARKS[0]}\n| what |")
    assert filled.endswith(f"\n{MARKS[1]}\n\nMore.\n")
    assert "old numbers" not in filled and "| color |" not in filled
    score_tables.fill_scores(readme, scores)
    assert readme.read_text(encoding="utf-8") == filled


def test_a_model_card_gets_them_into_its_metadata_as_well(tmp_path: Path, scores: Scores) -> None:
    card = tmp_path / "README.md"
    blocks = "\n".join([*MARKS, *BREAKDOWN])
    card.write_text(f"---\nlicense: apache-2.0\n---\n{blocks}\n", encoding="utf-8")
    score_tables.fill_scores(card, scores)
    _, front, body = card.read_text(encoding="utf-8").split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "apache-2.0"
    (model,) = metadata["model-index"]
    names = {metric["name"] for result in model["results"] for metric in result["metrics"]}
    assert {f"{line.task}: {line.metric}" for line in LINES} <= names
    assert "| color |" in body


@pytest.mark.parametrize("content", ["no marks\n", f"{MARKS[0]}\n", f"{MARKS[1]}\n{MARKS[0]}\n"])
def test_a_readme_without_marks_is_left_alone(content: str, tmp_path: Path, scores: Scores) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the line"):
        score_tables.fill_scores(readme, scores)
    assert readme.read_text(encoding="utf-8") == content


@pytest.mark.parametrize("path", ["README.md", "src/ttt_hf/checkpoints/ttt-tiny/README.md"])
def test_readme_and_card_show_the_same_numbers(path: str) -> None:
    """One table, measured by one command, stands in both."""
    text = (ROOT / path).read_text(encoding="utf-8")
    block = text[text.index(MARKS[0]) : text.index(MARKS[1])]
    assert block in (ROOT / "README.md").read_text(encoding="utf-8")
    for line in LINES:
        assert f"| {line.text} | {line.aim} |" in block
    assert score_tables.COMMAND in block
