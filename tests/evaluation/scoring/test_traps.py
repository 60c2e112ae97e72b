"""The traps of scoring speech models, a test each: what made published numbers disagree must not happen here."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest


pytest.importorskip("jiwer")
pytest.importorskip("whisper_normalizer")

import jiwer
from model_samples import make_task as make_model_task
from model_samples import spoken
from scripted import ScriptedModel, make_task

from ttt_hf.evaluation.concepts import Judgement, Record, Response, SampleScore
from ttt_hf.evaluation.folder import TaskFolder
from ttt_hf.evaluation.models import load_model
from ttt_hf.evaluation.scoring.normalizers import get_normalizer, normalizer_versions
from ttt_hf.evaluation.scoring.scorers import SCORERS, bind_scorer, scorer_versions
from ttt_hf.evaluation.stages.answer import answer_task
from ttt_hf.evaluation.stages.score import score_task


def record(reference: str, text: str, **fields: Any) -> Record:
    return Record("a", "Which one?", (reference,), text, **fields)


def total(scores: list[SampleScore], metric: str) -> float:
    numerator, denominator = (sum(column) for column in zip(*(score.values[metric] for score in scores)))
    return numerator / denominator


def results_of(tmp_path: Path, replies: dict[str, Response], **task_fields: Any) -> dict[str, Any]:
    """Results of ten samples, all right but these."""
    task = make_task(tmp_path, **task_fields)
    folder = TaskFolder(tmp_path / "out")
    answer_task(task, ScriptedModel(replies), folder)
    return score_task(folder, task)


@pytest.mark.parametrize(("scorer", "metric", "expected"), [("wer", "wer", 0.2), ("same_answer", "accuracy", 0.8)])
def test_1_failed_and_empty_replies_are_wrong_and_stay_in_the_denominator(
    tmp_path: Path, scorer: str, metric: str, expected: float
) -> None:
    replies = {"s3": Response("", finish_reason="error", error="Out of memory."), "s4": Response("")}
    results = results_of(tmp_path, replies, scorer=scorer)
    assert results["metrics"][metric]["value"] == pytest.approx(expected)
    assert (results["n_expected"], results["n_scored"], results["metrics"][metric]["n"]) == (10, 10, 10)
    assert (results["n_failed"], results["n_empty"]) == (1, 1)


def test_1_what_a_failed_reply_said_before_it_failed_is_not_scored() -> None:
    half = record("Paris", "Paris", finish_reason="error")
    assert bind_scorer("dpr_contains")(half).values == {"accuracy": (0.0, 1.0)}
    assert bind_scorer("wer")(half).values == {"wer": (1.0, 1.0)}


def test_1_speech_that_was_never_said_is_wrong_however_right_the_text_is() -> None:
    score = bind_scorer("same_answer")(record("It is Paris.", "It is Paris.", transcript=""))
    assert score.values["accuracy_text"] == (1.0, 1.0)
    assert score.values["accuracy_speech"] == (0.0, 1.0)
    assert score.values["wer_speech_vs_text"] == (3.0, 3.0)
    assert score.counts["silent"] == 1


def test_1_a_truncated_reply_is_scored_and_counted(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"s3": Response("four", finish_reason="length")})
    assert (results["n_truncated"], results["n_scored"]) == (1, 10)
    assert results["metrics"]["wer"]["value"] == 0.0


def test_2_a_model_that_is_cut_at_the_reference_would_know_it() -> None:
    """The same question gets the same reply whatever its reference is."""
    model = load_model("ttt-tiny", max_new_tokens=40)
    sample = spoken("question")
    replies = [
        model.respond([replace(sample, references=references)], make_model_task("chat"))[0]
        for references in ((), ("No.",), ("word " * 300,))
    ]
    assert replies[0].text
    assert len({(reply.text, reply.tokens, reply.finish_reason) for reply in replies}) == 1


def test_3_a_repetition_loop_is_divided_by_the_length_of_the_reference() -> None:
    score = bind_scorer("wer")(record("the cat sat", "the cat sat " * 20))
    assert score.values["wer"] == (57.0, 3.0)
    assert score.counts["repetitions"] == 1
    assert bind_scorer("wer")(record("the cat sat", "the cat sat")).counts["repetitions"] == 0


@pytest.mark.parametrize(
    ("normalizer", "right"),
    [
        ("chinese_simplified", "请拨打10086"),
        ("chinese_digits", "请拨打一零零八六"),
        ("chinese_telephone", "请拨打幺零零八六"),
        ("chinese_cardinal", "请拨打一万零八十六"),
    ],
)
def test_4_each_reading_of_a_number_has_a_normaliser_of_its_name(normalizer: str, right: str) -> None:
    if importlib.util.find_spec("opencc") is None:
        pytest.skip("OpenCC is not installed")
    readings = ["请拨打10086", "请拨打一零零八六", "请拨打幺零零八六", "请拨打一万零八十六"]
    scorer = bind_scorer("cer", {"normalizer": normalizer})
    perfect = [reading for reading in readings if scorer(record("请拨打10086", reading)).values["cer"][0] == 0]
    assert right in perfect
    assert set(perfect) == {"请拨打10086", right}


def test_4_english_numbers_are_the_same_in_words_and_digits() -> None:
    assert bind_scorer("wer")(record("TWENTY ONE DOLLARS", "$21")).values["wer"][0] == 0


def test_5_mixed_text_counts_chinese_by_character_and_english_by_word() -> None:
    score = bind_scorer("mer", {"normalizer": "chinese"})(record("打开wifi看YouTube", "打开WiFi看you too"))
    # 打 开 wifi 看 youtube: one word for another, and one too many.
    assert score.values["mer"] == (2.0, 5.0)
    by_character = bind_scorer("cer", {"normalizer": "chinese"})(record("打开wifi看YouTube", "打开WiFi看you too"))
    assert by_character.values["cer"][1] == 14.0


@pytest.mark.parametrize("scorer", ["wer", "cer", "mer"])
def test_6_empty_hypothesis_and_empty_reference_are_defined(scorer: str) -> None:
    score = bind_scorer(scorer, {"normalizer": "verbatim"})
    # The spaces between words are characters, too.
    expected, added = (5.0, 3.0) if scorer == "cer" else (3.0, 2.0)
    assert score(record("a b c", "")).values[scorer] == (expected, expected)
    assert score(record("", "a b")).values[scorer] == (added, 0.0)
    assert score(record("", "")).values[scorer] == (0.0, 0.0)


def test_6_jiwer_is_asked_in_the_way_that_it_still_answers() -> None:
    assert not hasattr(jiwer, "compute_measures"), "its old interface is back: look what has changed"
    assert bind_scorer("wer")(record("blue birds sing", "blue dogs sing")).values["wer"] == (1.0, 3.0)


def test_7_the_corpus_rate_is_not_the_mean_of_the_sentences() -> None:
    score = bind_scorer("wer")
    scores = [score(record("yes", "no")), score(record("this is a much longer sentence than that", ""))]
    scores.append(
        score(record("ten words are in this one and all are right", "ten words are in this one and all are right"))
    )
    assert total(scores, "wer") == (1 + 8 + 0) / (1 + 8 + 10)


@pytest.mark.parametrize(
    ("reply", "right"), [("She is a woman.", 0.0), ("It is Oman.", 1.0), ("OMAN", 1.0), ("Romania", 0.0)]
)
def test_8_answers_are_matched_by_tokens_and_not_within_words(reply: str, right: float) -> None:
    assert bind_scorer("dpr_contains")(record("Oman", reply)).values["accuracy"] == (right, 1.0)


def test_9_a_reply_in_another_language_is_counted() -> None:
    score = bind_scorer("dpr_contains")
    assert score(record("Beijing", "首都是北京。")).counts["other_language"] == 1
    assert score(record("Beijing", "It is Beijing.")).counts["other_language"] == 0
    assert score(record("北京", "It is Beijing.", language="zh")).counts["other_language"] == 1
    # What is heard counts like what is written.
    assert score(record("Beijing", "It is Beijing.", transcript="首都是北京。")).counts["other_language"] == 1


@pytest.mark.parametrize("scorer", [name for name, entry in SCORERS.items() if entry.needs_judge])
def test_10_an_unreadable_judgement_is_an_error_and_no_score(scorer: str) -> None:
    unreadable = Judgement(None, "Well, it depends.", "is no number")
    score = bind_scorer(scorer)(record("Paris", "Paris", judgements=(unreadable,)))
    assert "score" not in score.values, "not even nothing: the sample has no value, and the task no headline"
    assert score.counts["judge_errors"] == 1


def test_10_one_unreadable_answer_of_several_does_not_count_as_a_grade() -> None:
    judgements = (Judgement(4.0, "4"), Judgement(None, "hm", "is no number"), Judgement(2.0, "2"))
    score = bind_scorer("voicebench_judge")(record("Paris", "Paris", judgements=judgements))
    assert score.values["score"] == (3.0, 1.0)
    assert score.counts["judge_errors"] == 1


def test_11_the_versions_of_normalisers_are_in_the_results(tmp_path: Path) -> None:
    results = results_of(tmp_path, {})
    assert results["versions"]["scoring"] == scorer_versions()
    assert normalizer_versions().items() <= results["versions"]["scoring"].items()
    assert results["versions"]["scoring"]["whisper-normalizer"]
    assert results["task"]["scorer_options"] == {}


@pytest.mark.parametrize("leftover", ["good<|0.50|>morning", "<|en|>good morning<|endoftext|>", "<s>good morning</s>"])
def test_12_special_and_timestamp_tokens_are_no_words_but_are_counted(leftover: str) -> None:
    for scorer in ("wer", "cer", "mer", "same_answer"):
        score = bind_scorer(scorer, {"normalizer": "verbatim"})(record("good morning", leftover))
        (numerator, denominator) = score.values[SCORERS[scorer].headline]
        assert (numerator, denominator) == ((1.0, 1.0) if scorer == "same_answer" else (0.0, denominator))
        assert score.counts["special_tokens"] == 1
    kept = bind_scorer("wer", {"normalizer": "verbatim", "special_tokens": "keep"})(record("good morning", leftover))
    assert kept.values["wer"][0] > 0


def test_12_whispers_normaliser_alone_would_glue_words_together() -> None:
    """Why the tokens are taken out first."""
    assert get_normalizer("whisper_english")("good<|0.50|>morning") == "goodmorning"
    assert bind_scorer("wer")(record("good morning", "good<|0.50|>morning")).values["wer"] == (0.0, 2.0)


def test_a_set_that_was_cut_has_no_headline(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    folder = TaskFolder(tmp_path / "out")
    answer_task(task, ScriptedModel(), folder, limit=3)
    results = score_task(folder, task)
    assert results["headline"] is None and results["metrics"]["wer"]["value"] == 0.0
    assert results["limited"] == {"n": 3, "of": 10, "note": "first 3 of 10: not the benchmark's number"}
