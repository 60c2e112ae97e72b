"""Metrics for texts from anywhere, used like those of the library `evaluate`."""

from __future__ import annotations

from importlib.metadata import version

import pytest


pytest.importorskip("jiwer")
pytest.importorskip("whisper_normalizer")

import jiwer

from ttt_hf.evaluation.scoring.evaluate_module import Metric
from ttt_hf.evaluation.scoring.normalizers import get_normalizer


PREDICTIONS = ["Good mourning, my friend.", "", "twenty one"]
REFERENCES = ["good morning my friend", "are you there", "21"]


def test_a_rate_is_that_of_jiwer_in_percent_with_its_interval() -> None:
    result = Metric("wer").compute(predictions=PREDICTIONS, references=REFERENCES)
    normalize = get_normalizer("whisper_english")
    expected = jiwer.process_words(*(list(map(normalize, texts)) for texts in (REFERENCES, PREDICTIONS)))
    assert result["wer"] == 100 * expected.wer == 50.0
    assert result["wer_low"] <= result["wer"] <= result["wer_high"]
    assert (result["substitutions"], result["deletions"], result["samples"], result["empty"]) == (1, 3, 3, 1)


def test_samples_may_come_one_by_one_and_are_forgotten_then() -> None:
    metric = Metric("dpr_contains")
    metric.add(prediction="It is Oman.", references="Oman")
    metric.add_batch(predictions=["A woman."], references=[["Oman", "Muscat"]])
    assert metric.compute()["accuracy"] == 50.0
    assert metric.compute(predictions=["Oman"], references=["Oman"])["accuracy"] == 100.0


def test_options_are_those_of_the_scorer_and_told() -> None:
    metric = Metric("cer", normalizer="chinese")
    assert metric.compute(predictions=["你 好"], references=["你好！"])["cer"] == 0.0
    assert metric.description["options"] == {"normalizer": "chinese"}
    assert metric.description["versions"]["jiwer"] == version("jiwer")


def test_what_cannot_be_scored_is_told() -> None:
    with pytest.raises(ValueError, match="1 predictions and 2 references"):
        Metric("wer").compute(predictions=["one"], references=["one", "two"])
    with pytest.raises(ValueError, match="nothing to score"):
        Metric("wer").compute()
    with pytest.raises(ValueError, match="'clair_a' needs a judge"):
        Metric("clair_a")
    with pytest.raises(ValueError, match="no scorer 'bleu'"):
        Metric("bleu")
