"""The card that is uploaded: what it says stays, what the Hub needs is added."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from ttt_hf.loading import embedded_checkpoint
from ttt_hf.sharing.model_cards import complete_card


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "own.md"


def test_a_complete_card_stays_as_it_is(tmp_path: Path) -> None:
    card = Path(embedded_checkpoint()) / "README.md"
    out = complete_card(card, None, tmp_path / "README.md", "me/model", None, None)
    assert out.read_bytes() == card.read_bytes()


def test_a_folder_without_a_card_gets_one(tmp_path: Path) -> None:
    out = complete_card(None, None, tmp_path / "README.md", "me/model", None, "apache-2.0")
    card = ModelCard.load(out)
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "any-to-any",
        "tags": ["ttt", "ttt-hf", "speech"],
        "license": "apache-2.0",
    }
    assert card.text.lstrip().startswith("# model\n") and "ttt-hf chat me/model" in card.text


@pytest.mark.parametrize(("base", "is_named"), [("you/model", True), ("embedded", False)])
def test_an_adapter_names_its_base_if_the_hub_has_it(tmp_path: Path, base: str, is_named: bool) -> None:
    card = ModelCard.load(complete_card(None, None, tmp_path / "README.md", "me/model", base, None))
    assert card.data.library_name == "peft" and f"`{base}`" in card.text
    assert (card.data.base_model == base) is is_named


@pytest.mark.parametrize("is_of_the_folder", [True, False])
def test_what_a_card_says_stays(tmp_path: Path, own: Path, is_of_the_folder: bool) -> None:
    text = "---\nlicense: mit\ntags:\n- mine\n---\n# Mine\n\nWords.\n"
    own.write_text(text, encoding="utf-8")
    given = (own, None) if is_of_the_folder else (None, text)
    card = ModelCard.load(complete_card(*given, tmp_path / "README.md", "me/model", None, None))
    assert card.data.license == "mit" and card.data.tags == ["mine"] and card.data.pipeline_tag == "any-to-any"
    assert card.text.endswith("# Mine\n\nWords.\n")


def test_a_card_without_metadata_gets_some(tmp_path: Path, own: Path) -> None:
    own.write_text("# Mine\n", encoding="utf-8")
    card = ModelCard.load(complete_card(own, None, tmp_path / "README.md", "me/model", None, None))
    assert card.data.library_name == "transformers" and "# Mine" in card.text


@pytest.mark.parametrize(
    ("text", "license", "message"),
    [
        ("---\ntags: [\n---\n# Mine\n", None, "cannot be read: correct them"),
        ("---\n- a\n---\n# Mine\n", None, "cannot be read: correct them"),
        ("---\nlicense: mit\n---\n# Mine\n", "apache-2.0", "names the licence mit: leave out --license apache-2.0"),
    ],
)
def test_cards_that_cannot_be_used_are_said(
    tmp_path: Path, own: Path, text: str, license: str | None, message: str
) -> None:
    own.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as raised:
        complete_card(own, None, tmp_path / "README.md", "me/model", None, license)
    assert str(own) in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "README.md").exists()
