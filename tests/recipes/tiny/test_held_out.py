"""The tables of the held-out splits: what is in them, in which order, and that the task files read them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import ttt_hf.evaluation
from recipes.tiny.domain import build_domain
from recipes.tiny.held_out import NUM_WRITTEN, TASK_FILES, draw_items, spoken_questions, write_tables
from recipes.tiny.synthesize import Plan
from recipes.tiny.tables import read_rows, write_rows
from ttt_hf.evaluation import load_samples, load_task


SHIPPED = Path(ttt_hf.evaluation.__file__).parent / "tiny_set"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full recipe's tables, as if every recording had been made."""
    data, plan = tmp_path_factory.mktemp("planned"), Plan(build_domain())
    write_rows(data / "items.jsonl", map(dataclasses.asdict, plan.items))
    write_rows(
        data / "utterances.jsonl", ({**dataclasses.asdict(u), "seconds": 1.0} for u in plan.utterances.values())
    )
    return data


def test_the_full_recipe_has_enough_held_out_items(planned: Path) -> None:
    folder = write_tables(planned)
    counts = {path.stem: len(read_rows(path)) for path in folder.glob("*.jsonl")}
    assert counts == {
        "wording": 360,
        "sums": 132,
        "voice": 150,
        "sentences": 120,
        "written": NUM_WRITTEN,
        "reference_answers": 60,
        "reference_sentences": 60,
    }
    texts = [row["text"] for row in read_rows(folder / "reference_answers.jsonl")]
    assert len(set(texts)) == len(texts), "every recording counts once"


def test_the_set_in_the_package_is_the_beginning_of_the_tables(planned: Path) -> None:
    shipped = read_rows(SHIPPED / "questions.jsonl")
    for split in ("wording", "sums", "voice"):
        expected = [row for row in shipped if row["split"] == split]
        rows = spoken_questions(planned, split)[: len(expected)]
        for column in ("id", "family", "voice", "question", "answer"):
            assert [row[column] for row in rows] == [row[column] for row in expected]
    sentences = read_rows(SHIPPED / "sentences.jsonl")
    assert [item["answer"] for item in draw_items(planned, "sentences")[: len(sentences)]] == [
        row["text"] for row in sentences
    ]


@pytest.mark.parametrize("name", sorted(path.stem for path in TASK_FILES.glob("*.yaml")))
def test_tasks_read_the_tables(name: str, recipe_root: Path) -> None:
    folder = write_tables(recipe_root / "data")
    task = load_task(folder / f"{name}.yaml")
    samples = list(load_samples(task))
    assert samples and all(error is None for _, error in samples)
    for sample, _ in samples:
        assert sample.references[0]
        if "written" in name or name == "read_aloud":
            assert sample.audio is None and sample.question
        else:
            assert sample.audio is not None and len(sample.audio) > 0
    assert (task.output == "speech") == (name in ("wording_answers", "read_aloud") or name.startswith("reference"))


def test_a_missing_split_table_or_recording_is_an_error(
    trained_parts: Path, recipe_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no item of the split 'nonsense'"):
        draw_items(trained_parts / "data", "nonsense")
    with pytest.raises(FileNotFoundError, match="make the data first"):
        write_tables(tmp_path)
    table = recipe_root / "data" / "utterances.jsonl"
    write_rows(table, [row for row in read_rows(table) if row["voice"] != "flite-rms"])
    with pytest.raises(FileNotFoundError, match="make the data first"):
        write_tables(recipe_root / "data")
    assert not (recipe_root / "data" / "eval").exists()


def test_a_half_written_last_line_is_no_row(recipe_root: Path) -> None:
    table = recipe_root / "data" / "utterances.jsonl"
    rows = read_rows(table)
    with table.open("a", encoding="utf-8") as stream:
        stream.write('{"id": "joe-')
    assert read_rows(table) == rows
    shutil.copy(table, recipe_root / "copy.jsonl")
    write_rows(recipe_root / "copy.jsonl", rows)
    assert json.loads((recipe_root / "copy.jsonl").read_text(encoding="utf-8").splitlines()[-1]) == rows[-1]
