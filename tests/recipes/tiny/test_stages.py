"""The order of the recipe's stages, and when a stage is skipped, goes on, runs anew or refuses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.tiny import __main__ as recipe
from recipes.tiny.settings import TinySettings, load_settings


@pytest.fixture(autouse=True)
def _restored_logger() -> Iterator[None]:
    package_logger = logging.getLogger("ttt_hf")
    before, level = list(package_logger.handlers), package_logger.level
    yield
    for handler in package_logger.handlers:
        if handler not in before:
            handler.close()
    package_logger.handlers = before
    package_logger.setLevel(level)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the work of every stage by a note that it ran."""
    notes: list[str] = []

    def note(name: str) -> recipe.Stage:
        stage = next(stage for stage in recipe.STAGES if stage.name == name)
        return recipe.Stage(name, lambda out, settings: notes.append(name), stage.sections, stage.needs, stage.quick)

    monkeypatch.setattr(recipe, "STAGES", tuple(note(stage.name) for stage in recipe.STAGES))
    # Stages of one test finish within a second; their times have to differ all the same.
    ticks = iter(range(10_000))
    monkeypatch.setattr(recipe.time, "strftime", lambda *_: f"tick {next(ticks)}")
    return notes


ALL = ["data", "codec", "vocoder", "model", "assemble", "score", "card"]


def test_every_stage_reads_what_earlier_ones_made() -> None:
    names = [stage.name for stage in recipe.STAGES]
    assert names == ALL
    for place, stage in enumerate(recipe.STAGES):
        assert set(stage.needs) <= set(names[:place])
        assert set(stage.sections) <= set(TinySettings.__dataclass_fields__)


def test_all_stages_run_in_order_and_only_once(runs: list[str], tmp_path: Path) -> None:
    assert recipe.main(["--out", str(tmp_path)]) == 0
    assert runs == ALL
    assert recipe.main(["--out", str(tmp_path)]) == 0
    assert runs == ALL


def test_chosen_stages(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe.main(["--out", str(tmp_path), "--stages", "model,data"]) == 0
    assert runs == ["data", "model"]
    with pytest.raises(SystemExit) as stopped:
        recipe.main(["--out", str(tmp_path), "--stages", "data,train"])
    assert stopped.value.code == 2
    assert "no stage 'train'" in capsys.readouterr().err


def test_an_interrupted_stage_goes_on(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(out: Path, settings: TinySettings) -> None:
        raise OSError("No space left on device: free some and run the command again.")

    whole = recipe.STAGES
    broken = [
        recipe.Stage("codec", fail, ("codec",), ("data",)) if stage.name == "codec" else stage for stage in whole
    ]
    monkeypatch.setattr(recipe, "STAGES", tuple(broken))
    assert recipe.main(["--out", str(tmp_path)]) == 1
    assert runs == ["data"]
    assert capsys.readouterr().err.count("error: No space left") == 1
    assert "Traceback" in (tmp_path / "recipe.log").read_text(encoding="utf-8")
    monkeypatch.setattr(recipe, "STAGES", whole)
    assert recipe.main(["--out", str(tmp_path)]) == 0
    assert runs == ALL


def test_a_long_stage_is_not_redone_with_other_settings(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipe.main(["--out", str(tmp_path)]) == 0
    assert recipe.main(["--out", str(tmp_path), "lm.steps=3"]) == 1
    assert "stage model" in capsys.readouterr().err
    assert runs == ALL
    # What only changes how it runs is not another setting.
    assert recipe.main(["--out", str(tmp_path), "lm.save_steps=3", "data.workers=7"]) == 0
    assert runs == ALL


def test_quick_stages_follow_their_settings_and_inputs(runs: list[str], tmp_path: Path) -> None:
    assert recipe.main(["--out", str(tmp_path)]) == 0
    assert recipe.main(["--out", str(tmp_path), "score.batch_size=5"]) == 0
    assert runs[len(ALL) :] == ["score", "card"]
    assert recipe.main(["--out", str(tmp_path), "score.batch_size=5", "generation.audio_steps_per_block=4"]) == 0
    assert runs[len(ALL) + 2 :] == ["assemble", "score", "card"]


def test_a_model_trained_anew_is_assembled_anew(runs: list[str], tmp_path: Path) -> None:
    assert recipe.main(["--out", str(tmp_path)]) == 0
    (tmp_path / "stages" / "model.json").unlink()
    assert recipe.main(["--out", str(tmp_path)]) == 0
    assert runs[len(ALL) :] == ["model", "assemble", "score", "card"]


def test_a_stage_reports_whether_it_ran(runs: list[str], tmp_path: Path) -> None:
    settings = load_settings()
    stage = recipe.STAGES[0]
    assert recipe.run_stage(stage, tmp_path, settings) is True
    assert recipe.run_stage(stage, tmp_path, settings) is False
