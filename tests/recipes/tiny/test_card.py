"""The model card and the README's scores: every number from the files, and nothing lost on the way."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.tiny import card
from recipes.tiny.settings import TinySettings


def entry(metric: str, value: float | None, n: int = 12) -> dict[str, Any]:
    groups = {"color": {"value": value, "n": n}}
    return {
        "metric": metric,
        "value": value,
        "interval_95": [value - 1.25, value + 1.25] if value is not None else [None, None],
        "n": n,
        "empty": 0,
        "silent": 1,
        "unfinished": 2,
        "by_family": groups,
        "by_voice": {"espeak-us": {"value": value, "n": n}},
    }


@pytest.fixture
def scores() -> dict[str, Any]:
    yardsticks = {"original": entry("wer", 1.37), "codec": entry("wer", 2.68)}
    spoken = {"asr": entry("wer", 0.63), "chat": entry("correct", 98.61)}
    speed = {"generate_seconds_per_audio_second": 0.4321, "batch_size": 24}
    return {
        "parameters": 6_240_000,
        "codec_parameters": 4_510_000,
        "date": "2031-02-03",
        "threads": 2,
        "settings": {"seed": 7},
        "generation": {"audio_block_length": 32, "audio_steps_per_block": 16, "audio_temperature": 0.5},
        "transcriber": {"model": "Whisper tiny.en", "beam_size": 5},
        "versions": {"torch": "9.8.7"},
        "results": {
            "wording": {**spoken, "speech": entry("wer", 5.84), "yardsticks": yardsticks},
            "sums": {"asr": entry("wer", 0.9), "chat": entry("correct", 83.3)},
            "voice": {"asr": entry("wer", 21.7), "chat": entry("correct", 64.2)},
            "sentences": {"tts": entry("wer", 11.9), "yardsticks": yardsticks},
            "written": {"text": entry("correct", 97.5)},
            "speed": {"single": speed, "batched": {**speed, "generate_seconds_per_audio_second": 0.1234}},
        },
    }


@pytest.fixture
def root(checkpoint: Path, recipe_root: Path, scores: dict[str, Any]) -> Path:
    (recipe_root / "ttt-tiny").symlink_to(checkpoint)
    (recipe_root / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return recipe_root


@pytest.fixture
def text(root: Path, checkpoint: Path, small_settings: TinySettings, scores: dict[str, Any]) -> str:
    return card.model_card(scores, card.data_statistics(root / "data"), small_settings, checkpoint)


def test_the_table_shows_every_measured_number(scores: dict[str, Any]) -> None:
    table = card.score_table(scores)
    assert len(table.splitlines()) == 2 + len(card.ROWS)
    for value in ("0.6 %", "98.6 %", "5.8 %", "83.3 %", "11.9 %", "21.7 %", "64.2 %", "97.5 %"):
        assert value in table
    assert "97.4 to 99.9" in table
    changed = copy.deepcopy(scores)
    changed["results"]["sums"]["chat"]["value"] = 12.3
    assert card.score_table(changed) == table.replace("83.3 %", "12.3 %")


def test_the_notes_say_how_it_was_measured(scores: dict[str, Any]) -> None:
    notes = card.score_notes(scores)
    for part in ("1.4 %", "2.7 %", "0.43 s", "0.12 s", "batches of 24", "seed 7", "2031-02-03", "torch 9.8.7"):
        assert part in notes
    assert "24 spoken replies 2 were silent and 4 did not" in notes
    assert card.SCORE_COMMAND in notes


def test_a_number_that_was_not_measured_is_not_made_up(scores: dict[str, Any]) -> None:
    scores["results"]["sums"]["chat"] = entry("correct", None)
    assert "**not measured**" in card.score_table(scores)


def test_the_metadata_is_what_the_hub_reads(text: str) -> None:
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "apache-2.0"
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "any-to-any"
    (model,) = metadata["model-index"]
    values = [metric["value"] for result in model["results"] for metric in result["metrics"]]
    assert sorted(values) == sorted([0.63, 98.61, 5.84, 83.3, 0.9, 11.9, 21.7, 64.2, 97.5])
    assert body.lstrip().startswith("# ttt-tiny")


def test_the_card_tells_data_voices_licences_limits_and_training(text: str) -> None:
    for heading in ("## Scores", "## Data", "### Voices", "## Training", "## Limits", "## Licence"):
        assert heading in text
    assert "6.2 M parameters, with a codec of 4.5 M" in text
    assert "one codebook of 27 codes" in text
    assert "12.5 codes a second" in text
    assert "1234 steps of 24 samples" in text
    assert "1 of hidden size 32" in text
    assert "each was encoded at 16 places in the grid of codes" in text
    for licence in (card.LICENCES["piper"], card.LICENCES["espeak-ng"], card.LICENCES["flite"]):
        assert licence in text
    assert card.LICENCES["festival"] not in text, "no clip of this data was made by festival"
    assert "| `joe` | piper |" in text
    assert "| read_aloud | 2 | 2 |" in text
    assert "{{" not in text
    assert "None" not in text


def test_statistics_count_the_tables(root: Path) -> None:
    data = card.data_statistics(root / "data")
    assert data["training"] == {"pairs": 4, "questions": 4, "written": 4, "wordings": 2, "sentences": 2}
    assert data["held_out_wordings"] == 2
    assert data["families"]["color"] == {"train": 2, "wording": 2, "sums": 2, "voice": 1}
    assert data["clips"] == sum(voice["clips"] for voice in data["voices"].values()) == 42
    assert data["hours"] == pytest.approx(sum(voice["hours"] for voice in data["voices"].values()))


def test_a_missed_aim_is_said(scores: dict[str, Any], text: str) -> None:
    assert card.aims_are_met(scores)
    assert "not finished" not in text
    for split, entry, value in (("wording", "asr", 2.1), ("wording", "chat", 96.9), ("sentences", "tts", None)):
        missed = json.loads(json.dumps(scores))
        missed["results"][split][entry]["value"] = value
        assert not card.aims_are_met(missed)


def test_writing_the_card(root: Path, small_settings: TinySettings, checkpoint: Path) -> None:
    path = card.write_card(root, small_settings)
    assert path.read_text(encoding="utf-8").startswith("---\n")
    before = path.read_text(encoding="utf-8")
    assert card.write_card(root, small_settings).read_text(encoding="utf-8") == before, "the card counts itself"
    noted = card.write_card(root, small_settings, "The codec was trained before.").read_text(encoding="utf-8")
    assert "\n- The codec was trained before.\n" in noted
    assert noted.replace("\n- The codec was trained before.", "") == before
    path.unlink()
    (root / "scores.json").unlink()
    with pytest.raises(FileNotFoundError, match="run the stage score first"):
        card.write_card(root, small_settings)
    assert not (checkpoint / "README.md").exists()


def test_a_partial_measurement_makes_no_card(root: Path, scores: dict[str, Any], small_settings: TinySettings) -> None:
    del scores["results"]["voice"]
    (root / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the splits voice"):
        card.write_card(root, small_settings)


def test_the_readme_gets_the_scores_between_its_marks(tmp_path: Path, scores: dict[str, Any]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{card.BEGIN}\nold numbers\n{card.END}\n\nMore.\n", encoding="utf-8")
    card.fill_readme(readme, scores)
    filled = readme.read_text(encoding="utf-8")
    assert filled.startswith(f"# Title\n\n{card.BEGIN}\n| what |")
    assert filled.endswith(f"\n{card.END}\n\nMore.\n")
    assert "old numbers" not in filled
    card.fill_readme(readme, scores)
    assert readme.read_text(encoding="utf-8") == filled


@pytest.mark.parametrize("content", ["no marks\n", f"{card.BEGIN}\n", f"{card.END}\n{card.BEGIN}\n"])
def test_a_readme_without_marks_is_left_alone(content: str, tmp_path: Path, scores: dict[str, Any]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the line"):
        card.fill_readme(readme, scores)
    assert readme.read_text(encoding="utf-8") == content


def test_the_repositorys_readme_has_the_marks() -> None:
    text = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")
    assert text.index(card.BEGIN) < text.index(card.END)


def test_the_command_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{card.BEGIN}\n{card.END}\n", encoding="utf-8")
    assert card.main(["--out", str(root), "--readme", str(readme)]) == 0
    assert "98.6 %" in readme.read_text(encoding="utf-8")
    (root / "ttt-tiny" / "README.md").unlink()
    assert card.main(["--out", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("error: There is no checkpoint")
