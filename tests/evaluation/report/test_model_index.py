"""Scores in the metadata of a model card."""

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from recorded_run import Answer, change_results, write_questions, write_recognition
from ttt_hf.evaluation.report import read_results, update_model_card


CARD = """---
# Kept as it is.
license:   mit   # a remark
tags: [speech,
       "ttt"]
model-index:
- name: some-model
  results:
  - task:
      type: automatic-speech-recognition
    dataset:
      name: elsewhere
      type: other/data
      split: test
    metrics:
    - type: wer
      value: 9.9
      name: measured by others
# About the language.
language: en
---
# A card

---

Text with `model-index:` in it, and three dashes.
"""


@pytest.fixture
def results(tmp_path: Path) -> list:
    write_recognition(tmp_path / "run" / "reading", [Answer("a", "good morning", "good evening")])
    write_questions(tmp_path / "run" / "questions", [Answer("b", "Paris", "It is Paris.", speech="it is paris")])
    return read_results(tmp_path / "run")


def test_hub_reads_the_scores(tmp_path: Path, results: list) -> None:
    readme = tmp_path / "README.md"
    assert update_model_card(readme, results) == ["questions", "reading"]
    card = ModelCard.load(readme)
    assert card.data.model_name == "some/model"
    found = {(entry.dataset_type, entry.metric_name): entry for entry in card.data.eval_results}
    wer = found["some/recordings", "reading: wer"]
    assert (wer.task_type, wer.metric_type, wer.metric_value) == ("automatic-speech-recognition", "wer", 50.0)
    assert wer.metric_args["unit"] == "%"
    assert wer.dataset_split == "test" and wer.metric_args["samples"] == 1
    accuracy = found["some/questions", "questions: accuracy_speech"]
    assert (accuracy.metric_type, accuracy.metric_value, accuracy.dataset_revision) == ("accuracy", 100.0, "abc123")
    assert ("some/questions", "questions: wer_speech_vs_text") in found


def test_all_else_in_the_card_stays(tmp_path: Path, results: list) -> None:
    readme = tmp_path / "README.md"
    readme.write_bytes(CARD.encode())
    update_model_card(readme, results)
    text = readme.read_bytes().decode()
    before, after = CARD.split("model-index:\n")[0], CARD.split("9.9\n      name: measured by others\n")[1]
    assert text.startswith(before) and text.endswith(after)
    (model,) = yaml.safe_load(text.split("---\n")[1])["model-index"]
    assert model["name"] == "some-model", "a card is of one model, whatever it is called elsewhere"
    assert model["results"][0]["metrics"] == [{"type": "wer", "value": 9.9, "name": "measured by others"}]
    assert len(model["results"]) == 3


def test_writing_twice_changes_nothing_and_new_scores_replace_old_ones(tmp_path: Path, results: list) -> None:
    readme = tmp_path / "README.md"
    readme.write_bytes(CARD.encode())
    update_model_card(readme, results)
    first = readme.read_bytes()
    update_model_card(readme, results)
    assert readme.read_bytes() == first
    change_results(tmp_path / "run" / "reading", metrics={"wer": {**results[1]["metrics"]["wer"], "value": 0.125}})
    update_model_card(readme, read_results(tmp_path / "run" / "reading"))
    values = {entry.metric_name: entry.metric_value for entry in ModelCard.load(readme).data.eval_results}
    assert values["reading: wer"] == 12.5 and values["measured by others"] == 9.9
    assert values["questions: accuracy_speech"] == 100.0


@pytest.mark.parametrize(
    "text", ["", "# Only text\n", "---\nlicense: mit\n---\n# Card\n", "---\n'model-index' : []\n---\n"]
)
def test_cards_without_scores(tmp_path: Path, results: list, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    update_model_card(readme, results)
    card = ModelCard.load(readme)
    assert len(card.data.eval_results) == 4
    assert card.text.strip() == text.split("---\n")[-1].strip()
    assert card.data.to_dict().get("license") == ("mit" if "mit" in text else None)


def test_windows_line_ends_stay(tmp_path: Path, results: list) -> None:
    readme = tmp_path / "README.md"
    readme.write_bytes(CARD.replace("\n", "\r\n").encode())
    update_model_card(readme, results)
    content = readme.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n")
    update_model_card(readme, results)
    assert readme.read_bytes() == content


def test_card_of_several_models(tmp_path: Path, results: list) -> None:
    readme = tmp_path / "README.md"
    index = [{"name": name, "results": []} for name in ("first", "second")]
    readme.write_text(f"---\n{yaml.safe_dump({'model-index': index})}---\n", encoding="utf-8")
    update_model_card(readme, results)
    written = yaml.safe_load(readme.read_text(encoding="utf-8").split("---\n")[1])["model-index"]
    assert [entry["name"] for entry in written] == ["first", "second", "some/model"]


def test_limited_run_is_no_score(tmp_path: Path, results: list) -> None:
    write_recognition(tmp_path / "part" / "reading", [Answer("a", "good morning", "good evening")], limited=True)
    readme = tmp_path / "README.md"
    with pytest.raises(ValueError, match="without --limit"):
        update_model_card(readme, read_results(tmp_path / "part"))
    assert not readme.exists()
    assert update_model_card(readme, [*read_results(tmp_path / "part"), results[0]]) == ["questions"]


@pytest.mark.parametrize(
    "metadata", ["license: [", "just text", "model-index: 3", "model-index:\n- results: []", "model-index: [\n]"]
)
def test_metadata_that_cannot_be_read_stay_as_they_are(tmp_path: Path, results: list, metadata: str) -> None:
    readme = tmp_path / "README.md"
    text = f"---\n{metadata}\n---\n"
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"README.md.*cannot be read"):
        update_model_card(readme, results)
    assert readme.read_text(encoding="utf-8") == text


def test_local_data_are_named_after_the_task(tmp_path: Path) -> None:
    data = tmp_path / "private" / "calls.jsonl"
    write_recognition(tmp_path / "mine", [Answer("a", "good morning", "good evening")], data=str(data))
    readme = tmp_path / "README.md"
    update_model_card(readme, read_results(tmp_path / "mine"))
    assert "private" not in readme.read_text(encoding="utf-8")
    (entry,) = ModelCard.load(readme).data.eval_results
    assert entry.dataset_type == "mine"


def test_full_disk_leaves_the_card_as_it_was(tmp_path: Path, results: list, limit_file_size) -> None:
    readme = tmp_path / "README.md"
    readme.write_bytes(CARD.encode())
    with limit_file_size(100), pytest.raises(OSError, match="cannot be written"):
        update_model_card(readme, results)
    assert readme.read_bytes() == CARD.encode()
