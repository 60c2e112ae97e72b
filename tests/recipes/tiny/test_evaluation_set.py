"""The shipped evaluation set: how it is chosen, and that training never met what is in it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import soundfile

import ttt_hf.evaluation
from recipes.tiny.domain import Domain, build_domain
from recipes.tiny.evaluation_set import SIZES, main
from recipes.tiny.voices import HELD_OUT_VOICE


SHIPPED = Path(ttt_hf.evaluation.__file__).parent / "tiny_set"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def domain() -> Domain:
    return build_domain()


def test_command_writes_questions_sentences_and_recordings(trained_parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert main(["--data", str(trained_parts / "data"), "--out", str(out)]) == 0
    questions = read(out / "questions.jsonl")
    # All that the small data hold, which is less than the sizes ask for.
    assert Counter(row["split"] for row in questions) == {"wording": 4, "sums": 4, "voice": 1}
    assert len({row["id"] for row in questions}) == len(questions) == len(list((out / "audio").iterdir()))
    assert read(out / "sentences.jsonl")[0]["text"].startswith("The sentences horse eats")
    for row in questions:
        info = soundfile.info(out / row["audio"])
        assert (info.samplerate, info.subtype) == (16000, "OPUS")
        assert info.duration == pytest.approx(row["seconds"], abs=0.001)


def test_command_mixes_no_old_recordings_with_new_ones(
    trained_parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "audio").mkdir()
    assert main(["--data", str(trained_parts / "data"), "--out", str(tmp_path)]) == 1
    assert "is there already: delete it" in capsys.readouterr().err
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "set")]) == 1
    assert "make the data first" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_shipped_set_is_of_the_sizes_that_the_recipe_states() -> None:
    rows = read(SHIPPED / "questions.jsonl")
    sizes = {**Counter(row["split"] for row in rows), "sentences": len(read(SHIPPED / "sentences.jsonl"))}
    assert sizes == SIZES
    assert {row["audio"] for row in rows} == {f"audio/{path.name}" for path in (SHIPPED / "audio").iterdir()}
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 1_500_000


def test_training_never_met_what_is_shipped(domain: Domain) -> None:
    for row in read(SHIPPED / "questions.jsonl"):
        facts = [fact for fact in domain.facts.values() if fact.answer == row["answer"]]
        assert facts, row
        # Every fact that has this answer: in no wording of training does one ask this question.
        trained = [fact for fact in facts if fact.id not in domain.held_out_sums]
        wordings = [(fact, wording) for fact in trained for wording in domain.train_wordings[fact.kind]]
        assert row["question"] not in [domain.question(fact, wording) for fact, wording in wordings], row
        if row["split"] == "sums":
            assert all(fact.id in domain.held_out_sums for fact in facts), row
        assert (row["voice"] == HELD_OUT_VOICE) == (row["split"] == "voice")
    sentences = {row["text"] for row in read(SHIPPED / "sentences.jsonl")}
    assert sentences <= set(domain.held_out_sentences)
