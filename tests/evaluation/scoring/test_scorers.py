"""Scorers: the numbers they give, their agreement with jiwer, and what they refuse."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from typing import Any

import pytest


pytest.importorskip("jiwer")
pytest.importorskip("whisper_normalizer")

import jiwer

from ttt_hf.evaluation.concepts import Judgement, Record, SampleScore
from ttt_hf.evaluation.scoring.normalizers import get_normalizer
from ttt_hf.evaluation.scoring.scorers import SCORERS, bind_scorer, scorer_versions
from ttt_hf.evaluation.tasks import load_task, task_names


ENGLISH = [
    ("HE HOPED THERE WOULD BE STEW FOR DINNER", "He hoped there'd be stew, for dinner."),
    ("MISTER QUILTER IS THE APOSTLE", "Mr. Quilter is an apostle of the middle classes."),
    ("TWENTY ONE DOLLARS", "$21"),
    ("NOTHING AT ALL", ""),
    ("THE COLOUR IS GREY", "The color is gray, gray, gray, gray, gray, gray, gray, gray, gray."),
]
CHINESE = [
    ("甚至出现交易几乎停滞的情况", "甚至出現交易，幾乎停滯的情況。"),
    ("他用python写了二十三行", "他用 Python 写了23行"),
    ("今天天气很好", "今天天"),
    ("好的", ""),
    ("打一零零八六", "打10086！"),
]


def record(reference: str, text: str, **fields: Any) -> Record:
    return Record("a", "Which one?", (reference,), text, **fields)


def value(scores: list[SampleScore], metric: str) -> float:
    numerator, denominator = (sum(column) for column in zip(*(score.values[metric] for score in scores)))
    return numerator / denominator


def installed(normalizer: str) -> str:
    if normalizer.startswith("chinese_") and importlib.util.find_spec("opencc") is None:
        pytest.skip("OpenCC is not installed")
    return normalizer


@pytest.mark.parametrize("normalizer", ["whisper_english", "whisper_basic", "verbatim"])
def test_wer_is_what_jiwer_says_of_the_same_text(normalizer: str) -> None:
    normalize = get_normalizer(normalizer)
    scores = [bind_scorer("wer", {"normalizer": normalizer})(record(*pair)) for pair in ENGLISH]
    references, hypotheses = (list(map(normalize, column)) for column in zip(*ENGLISH))
    counts = jiwer.process_words(references, hypotheses)
    assert value(scores, "wer") == counts.wer
    for kind in ("hits", "substitutions", "deletions", "insertions"):
        assert sum(score.counts[kind] for score in scores) == getattr(counts, kind)


@pytest.mark.parametrize(
    "normalizer", ["chinese", "chinese_simplified", "chinese_digits", "chinese_telephone", "chinese_cardinal"]
)
def test_cer_is_what_jiwer_says_of_the_same_text(normalizer: str) -> None:
    normalize = get_normalizer(installed(normalizer))
    scores = [bind_scorer("cer", {"normalizer": normalizer})(record(*pair, language="zh")) for pair in CHINESE]
    references, hypotheses = ([normalize(text).replace(" ", "") for text in column] for column in zip(*CHINESE))
    assert value(scores, "cer") == jiwer.process_characters(references, hypotheses).cer


def test_mixed_error_rate_is_what_jiwer_says_of_the_same_tokens() -> None:
    pairs = [("他 用 python 写", "他 用 pythons 写"), ("三 个 open source", "三 个 开 source")]
    scores = [
        bind_scorer("mer", {"normalizer": "chinese"})(record(*(text.replace(" ", "", 1) for text in pair)))
        for pair in pairs
    ]
    assert value(scores, "mer") == jiwer.process_words(*(list(column) for column in zip(*pairs))).wer == 2 / 8


@pytest.mark.parametrize("name", task_names())
def test_every_task_is_scored_as_jiwer_and_its_normaliser_do(name: str) -> None:
    task = load_task(name)
    scorer = bind_scorer(task.scorer, _usable(task.scorer_options))
    if task.scorer in ("wer", "cer", "mer"):
        pairs = CHINESE if task.language == "zh" else ENGLISH
        default = "whisper_english" if task.scorer == "wer" else "chinese_cardinal"
        normalize = get_normalizer(task.scorer_options.get("normalizer", default))
        sides = [[_spaced(normalize(text), task.scorer) for text in column] for column in zip(*pairs)]
        expected = jiwer.process_words(*sides).wer
        scores = [scorer(record(*pair, language=task.language)) for pair in pairs]
        assert value(scores, task.scorer) == expected
    if task.output == "speech" and not SCORERS[task.scorer].needs_judge:
        normalize = get_normalizer(task.scorer_options.get("normalizer", "whisper_english"))
        pairs = ENGLISH[:3]
        scores = [scorer(record(text, text, transcript=heard)) for text, heard in pairs]
        sides = [[normalize(text) for text in column] for column in zip(*pairs)]
        assert value(scores, "wer_speech_vs_text") == jiwer.process_words(*sides).wer


def _usable(options: Mapping[str, Any]) -> Mapping[str, Any]:
    installed(str(options.get("normalizer", "")))
    return options


def _spaced(text: str, scorer: str) -> str:
    """The units of a scorer, written as words; the texts of these tests mix no scripts within a word."""
    if scorer == "wer":
        return text
    if scorer == "cer":
        return " ".join(text.replace(" ", ""))
    return " ".join("".join(f" {one} " if ord(one) > 0x2E80 else one for one in text).split())


@pytest.mark.parametrize(
    ("scorer", "options", "reply", "right"),
    [
        ("same_answer", {}, "seven plus five is 12", 1.0),
        ("same_answer", {}, "It is twelve.", 0.0),
        ("dpr_contains", {}, "I say: Seven plus five is twelve. Yes!", 1.0),
        ("dpr_contains", {}, "seven plus five is 12", 0.0),
        ("choice", {"choices": ["Seven plus five is twelve.", "None"]}, "Seven plus five is twelve.", 1.0),
        ("choice", {"choices": ["Seven plus five is twelve.", "None"]}, "none", 0.0),
    ],
)
def test_accuracy_is_one_or_nothing_of_one(scorer: str, options: dict[str, Any], reply: str, right: float) -> None:
    score = bind_scorer(scorer, options)(record("Seven plus five is twelve.", reply))
    assert score.values == {"accuracy": (right, 1.0)}


def test_any_reference_suffices() -> None:
    sample = Record("a", "", ("Paris", "City of Light"), "the city of light")
    assert bind_scorer("dpr_contains")(sample).values["accuracy"] == (1.0, 1.0)
    sample = dataclasses.replace(sample, text="city of light")
    assert bind_scorer("same_answer")(sample).values["accuracy"] == (1.0, 1.0)


def test_text_speech_and_their_agreement_stand_side_by_side() -> None:
    sample = record("Paris", "It is Paris.", transcript="it is parish")
    score = bind_scorer("dpr_contains")(sample)
    assert score.values == {
        "accuracy_text": (1.0, 1.0),
        "accuracy_speech": (0.0, 1.0),
        "wer_speech_vs_text": (1.0, 3.0),
    }
    assert (score.counts["hits"], score.counts["substitutions"]) == (2, 1)
    errors = bind_scorer("wer")(record("it was paris", "It is Paris.", transcript="it is parish")).values
    assert errors == {"wer_text": (1.0, 3.0), "wer_speech": (2.0, 3.0), "wer_speech_vs_text": (1.0, 3.0)}


def test_the_headline_of_spoken_replies_is_what_is_heard() -> None:
    entry = SCORERS["same_answer"]
    assert (entry.headline_of("text"), entry.headline_of("speech")) == ("accuracy", "accuracy_speech")
    for entry in SCORERS.values():
        assert {entry.headline_of("text"), entry.headline_of("speech"), "wer_speech_vs_text"} <= set(entry.metrics)


def grades(*scores: float | None, about: Any = "text") -> tuple[Judgement, ...]:
    return tuple(Judgement(score, "", None if score is not None else "unreadable", about=about) for score in scores)


@pytest.mark.parametrize(
    ("scorer", "options", "given", "expected", "unit"),
    [
        ("openaudiobench_judge", {}, (1.0,), 1.0, "fraction"),
        ("openaudiobench_judge", {}, (0.0,), 0.0, "fraction"),
        ("openaudiobench_judge", {"scale": "grade_10"}, (7.0,), 0.7, "fraction"),
        ("voicebench_judge", {}, (4.0, 5.0, 3.0), 4.0, "of 5"),
        ("clair_a", {}, (64.0,), 0.64, "fraction"),
    ],
)
def test_grades_of_a_judge(
    scorer: str, options: dict[str, Any], given: tuple[float, ...], expected: float, unit: str
) -> None:
    score = bind_scorer(scorer, options)(record("x", "A reply.", judgements=grades(*given)))
    assert value([score], "score") == pytest.approx(expected)
    assert SCORERS[scorer].metrics["score"].unit == unit
    assert score.counts["judge_errors"] == 0


@pytest.mark.parametrize(
    ("scorer", "options", "lowest"),
    [
        ("openaudiobench_judge", {}, 0.0),
        ("openaudiobench_judge", {"scale": "grade_10"}, 0.1),
        ("voicebench_judge", {}, 1.0),
        ("clair_a", {}, 0.0),
    ],
)
@pytest.mark.parametrize("reply", [{"text": ""}, {"text": "Paris", "finish_reason": "error"}], ids=["empty", "failed"])
def test_an_empty_or_failed_reply_gets_the_lowest_mark_unasked(
    scorer: str, options: dict[str, Any], lowest: float, reply: dict[str, Any]
) -> None:
    score = bind_scorer(scorer, options)(record("x", **reply))
    assert score.values["score"] == (pytest.approx(lowest), 1.0)


def test_spoken_replies_are_judged_by_text_and_by_transcript() -> None:
    judgements = (*grades(1.0), *grades(0.0, about="transcript"))
    score = bind_scorer("openaudiobench_judge")(record("x", "Paris", transcript="Parish", judgements=judgements))
    assert (score.values["score_text"], score.values["score_speech"]) == ((1.0, 1.0), (0.0, 1.0))


def test_a_reply_that_was_not_judged_is_told() -> None:
    with pytest.raises(ValueError, match="The text of sample a has not been judged: run `ttt-hf eval judge`"):
        bind_scorer("voicebench_judge")(record("x", "Paris"))


def test_a_grade_of_another_scale_is_told() -> None:
    with pytest.raises(ValueError, match="the grade 7, which is not within 0 and 1"):
        bind_scorer("openaudiobench_judge")(record("x", "Paris", judgements=grades(7.0)))


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("bleu", {}, "no scorer 'bleu': choose one of wer, cer"),
        ("wer", {"normaliser": "chinese"}, "no option 'normaliser': it has normalizer, special_tokens"),
        ("choice", {"choice": ["a"]}, "no option 'choice': it has choices, normalizer, special_tokens"),
        ("wer", {"normalizer": "whisper"}, "no normaliser 'whisper'"),
        ("wer", {"special_tokens": "drop"}, "special_tokens is 'drop': choose strip or keep"),
        ("choice", {}, "needs the option choices"),
        ("choice", {"choices": ["dog", "dog"]}, "needs the option choices"),
        ("openaudiobench_judge", {"scale": "stars"}, "scale is 'stars': choose verdict or grade_10"),
    ],
)
def test_bad_options_are_told_before_anything_is_scored(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        bind_scorer(name, options)


def test_samples_that_do_not_fit_the_scorer_are_told() -> None:
    with pytest.raises(ValueError, match="needs one reference, and sample a has 2"):
        bind_scorer("wer")(Record("a", "", ("one", "two"), "one"))
    with pytest.raises(ValueError, match="Sample a has no reference"):
        bind_scorer("dpr_contains")(Record("a", "", (), "one"))
    with pytest.raises(ValueError, match="'bird' of sample a is not among the choices"):
        bind_scorer("choice", {"choices": ["dog", "cat"]})(record("bird", "dog"))


def test_scorers_are_pure() -> None:
    sample = record("Paris", "It is Paris.", transcript="it is parish", judgements=grades(1.0))
    for name in ("wer", "same_answer", "dpr_contains"):
        scorer = bind_scorer(name)
        assert scorer(sample) == scorer(sample)


def test_versions_are_recorded() -> None:
    versions = scorer_versions()
    assert {"scorers", "jiwer", "transformers", "whisper-normalizer", "opencc", "unicode"} == set(versions)
    assert versions["jiwer"] == importlib.metadata.version("jiwer")
