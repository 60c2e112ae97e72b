"""The model card of a checkpoint that the recipe made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from recipes.tiny import card
from recipes.tiny.score_tables import LINES, read_scores
from recipes.tiny.settings import TinySettings


@pytest.fixture
def root(scored: Path, tmp_path: Path) -> Path:
    """A scored recipe whose checkpoint has no card yet."""
    return Path(shutil.copytree(scored, tmp_path / "recipe"))


@pytest.fixture
def text(root: Path, small_settings: TinySettings) -> str:
    return card.write_card(root, small_settings).read_text(encoding="utf-8")


def test_the_metadata_is_what_the_hub_reads(text: str) -> None:
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "apache-2.0"
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "any-to-any"
    (model,) = metadata["model-index"]
    assert model["name"] == "ttt-tiny"
    names = {metric["name"] for result in model["results"] for metric in result["metrics"]}
    assert {f"{line.task}: {line.metric}" for line in LINES} <= names
    assert body.lstrip().startswith("# ttt-tiny")


def test_the_card_tells_data_voices_licences_limits_and_training(text: str, root: Path) -> None:
    for heading in ("## Scores", "## Data", "### Voices", "## Training", "## Limits", "## Licence"):
        assert heading in text
    parameters = read_scores(root).checkpoint["wording_asr"]["model"]["parameters"]
    assert f"\n{parameters / 1e6:.1f} M parameters" in text or f" {parameters / 1e6:.1f} M parameters" in text
    assert "one codebook of 27 codes" in text
    assert "12.5 codes a second" in text
    assert "1234 steps of 24 samples" in text
    assert "1 of hidden size 32" in text
    assert "encoded at 16 offsets" in text
    for licence in (card.LICENCES["piper"], card.LICENCES["espeak-ng"], card.LICENCES["flite"]):
        assert licence in text
    assert card.LICENCES["festival"] not in text, "no clip of this data was made by festival"
    assert "| `joe` | piper |" in text
    assert "| read_aloud | 2 | 2 |" in text
    assert "**Its training is not finished**" in text, "it has learned nothing"
    assert "{{" not in text
    assert "None" not in text


def test_statistics_count_the_tables(root: Path) -> None:
    data = card.data_statistics(root / "data")
    assert data["training"] == {"pairs": 4, "questions": 4, "written": 4, "wordings": 2, "sentences": 2}
    assert data["held_out_wordings"] == 2
    assert data["families"]["color"] == {"train": 2, "wording": 2, "sums": 2, "voice": 1}
    assert data["clips"] == sum(voice["clips"] for voice in data["voices"].values()) == 30
    assert data["hours"] == pytest.approx(sum(voice["hours"] for voice in data["voices"].values()))


def test_writing_the_card_again(root: Path, text: str, small_settings: TinySettings) -> None:
    assert card.write_card(root, small_settings).read_text(encoding="utf-8") == text, "the card counts itself"
    noted = card.write_card(root, small_settings, "The codec was trained before.").read_text(encoding="utf-8")
    assert "\n- The codec was trained before.\n" in noted
    assert noted.replace("\n- The codec was trained before.", "") == text


def test_without_scores_there_is_no_card(root: Path, small_settings: TinySettings) -> None:
    shutil.rmtree(root / "scores")
    with pytest.raises(FileNotFoundError, match="run the stage score first"):
        card.write_card(root, small_settings)
    assert not (root / "ttt-tiny" / "README.md").exists()


def test_the_command_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- scores:begin -->\n<!-- scores:end -->\n", encoding="utf-8")
    assert card.main(["--out", str(root), "--fill", str(readme)]) == 0
    assert "| what | aim | measured |" in readme.read_text(encoding="utf-8")
    assert not (root / "ttt-tiny" / "README.md").exists()
    assert card.main(["--out", str(root)]) == 0
    assert (root / "ttt-tiny" / "README.md").is_file()
    assert card.main(["--out", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("error: There is no checkpoint")
