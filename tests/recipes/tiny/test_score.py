"""A checkpoint that has learned nothing is scored from end to end: all items, all tasks, reference scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.tiny import score as stage
from recipes.tiny.score_tables import RUNS
from recipes.tiny.settings import TinySettings
from recipes.tiny.tables import read_rows


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_every_held_out_item_is_scored(scored: Path) -> None:
    counts = {}
    for run, tasks in RUNS.items():
        for task in tasks:
            entry = results(scored / "scores" / run / task)
            assert entry["headline"] is not None
            counts[task] = entry["n_scored"]
    assert counts == {
        **dict.fromkeys(("wording_asr", "wording_answers", "wording_written", "sums_asr", "sums_answers"), 4),
        **dict.fromkeys(("voice_asr", "voice_answers"), 1),
        "read_aloud": 2,
        "reference_answers": 4,
        "reference_sentences": 2,
    }


def test_all_task_files_are_scored() -> None:
    assert sorted([*stage.TASKS, *stage.REFERENCE_TASKS]) == sorted(
        path.stem for path in Path(stage.__file__).with_name("tasks").glob("*.yaml")
    )


def test_replies_are_generated_with_the_checkpoints_settings_in_the_recipes_batches(scored: Path) -> None:
    settings = json.loads((scored / "scores" / "checkpoint" / "wording_answers" / "settings.json").read_text())
    assert settings["batch_size"] == 3
    generation = settings["model"]["generation"]
    assert (generation["audio_steps_per_block"], generation["audio_temperature"], generation["seed"]) == (2, 0.7, 0)


def test_reference_scores_are_of_recordings(scored: Path) -> None:
    recorded, coded = (
        read_rows(scored / "scores" / run / "reference_sentences" / "predictions.jsonl")
        for run in ("recordings", "codec")
    )
    seconds = {row["id"]: row["seconds"] for row in read_rows(scored / "data" / "utterances.jsonl")}
    assert [row["audio_seconds"] for row in recorded] == pytest.approx(
        [seconds[row["id"]] for row in recorded], abs=1e-3
    )
    assert [row["text"] for row in recorded] == [row["references"][0] for row in recorded]
    # The codec gives whole codes of 80 ms.
    assert [row["audio_seconds"] for row in coded] == pytest.approx(
        [row["audio_seconds"] for row in recorded], abs=0.09
    )
    assert not {row["audio_sha256"] for row in recorded} & {row["audio_sha256"] for row in coded}


def test_a_finished_score_asks_nothing_again(scored: Path, checkpoint: Path, small_settings: TinySettings) -> None:
    predictions = sorted((scored / "scores").rglob("predictions.jsonl"))
    before = [path.read_bytes() for path in predictions]
    stage.score(str(checkpoint), scored, small_settings.score.batch_size)
    assert [path.read_bytes() for path in predictions] == before and len(before) == 12


def test_the_command_line(
    checkpoint: Path, recipe_root: Path, scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(checkpoint), "--out", str(recipe_root), "--limit", "1"]
    assert stage.main([*arguments, "max_new_tokens=5"]) == 0
    entry = results(recipe_root / "scores" / "checkpoint" / "wording_answers")
    assert entry["headline"] is None
    assert entry["model"]["generation"]["max_new_tokens"] == 5
    assert stage.main([*arguments, "max_new_token=5"]) == 1
    assert "max_new_token" in capsys.readouterr().err
    assert stage.main(["--model", str(recipe_root / "nowhere"), "--out", str(recipe_root)]) == 1
    assert "nowhere" in capsys.readouterr().err
    (recipe_root / "data" / "utterances.jsonl").unlink()
    assert stage.main(arguments) == 1
    assert "make the data first" in capsys.readouterr().err
