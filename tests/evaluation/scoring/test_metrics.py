"""Word errors and answer correctness: the traps that make scores wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest


pytest.importorskip("jiwer")
pytest.importorskip("whisper_normalizer")

from ttt_hf.evaluation import (
    WordErrors,
    bootstrap_interval,
    is_same_answer,
    normalize_english,
    total_word_errors,
    word_errors,
)
from ttt_hf.evaluation.scoring.metrics import Estimate, estimate


def test_normalisation_reads_numbers_case_and_punctuation_alike() -> None:
    assert normalize_english("  It is Twenty-One,  today! ") == normalize_english("it is 21 today")
    assert normalize_english("It's grey.") == normalize_english("it is gray")
    assert normalize_english(" ?! ") == ""


def test_counts_of_an_alignment() -> None:
    errors = word_errors("blue birds sing in old trees", "blue dogs sing old trees today")
    assert (errors.hits, errors.substitutions, errors.deletions, errors.insertions) == (4, 1, 1, 1)
    assert errors.reference_words == 6
    assert errors.rate == pytest.approx(0.5)


def test_empty_hypothesis_deletes_every_word() -> None:
    assert word_errors("good morning my friend", "") == WordErrors(deletions=4)
    assert word_errors("good morning my friend", " ?! ").rate == 1.0


def test_empty_reference_counts_insertions_and_has_no_rate() -> None:
    errors = word_errors("", "thank you")
    assert errors == WordErrors(insertions=2)
    assert math.isnan(errors.rate)
    assert word_errors("", "") == WordErrors()


def test_a_repetition_loop_is_divided_by_the_reference_length() -> None:
    assert word_errors("blue", "blue blue blue blue").rate == 3.0


def test_the_corpus_rate_is_not_the_mean_of_sentence_rates() -> None:
    pairs = [("yes", "no"), ("the capital of france is paris of course", "the capital of france is paris of course")]
    assert total_word_errors(pairs).rate == pytest.approx(1 / 9)


def test_a_dropped_sample_cannot_improve_the_corpus() -> None:
    whole = total_word_errors([("one apple", "one apple"), ("two pears", "")])
    assert whole.reference_words == 4
    assert whole.rate == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("Seven plus five is twelve.", "seven plus five is 12", True),
        ("Seven plus five is twelve", "Seven plus six is twelve.", False),
        ("The capital is Oman, woman.", "The capital is Oman.", False),
        ("twelve", "Seven plus five is twelve.", False),
        ("", "Hello.", False),
        ("?!", "!", False),
    ],
)
def test_the_strict_rule(answer: str, reference: str, right: bool) -> None:
    assert is_same_answer(answer, reference) is right


@pytest.mark.parametrize(
    ("unit", "normalizer", "length"),
    [("word", "verbatim", 3), ("mixed", "verbatim", 4), ("character", "verbatim", 7), ("character", "chinese", 5)],
)
def test_units_of_an_error_rate(unit: str, normalizer: str, length: int) -> None:
    assert word_errors("我用 py 写", "", normalizer, unit).reference_words == length  # type: ignore[arg-type]


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="no unit 'syllable': choose word, character or mixed"):
        word_errors("a", "b", "verbatim", "syllable")  # type: ignore[arg-type]


def test_characters_and_mixed_text_are_aligned_by_their_units() -> None:
    assert word_errors("我用 python 写", "我用 pythons 写", "chinese", "mixed") == WordErrors(hits=3, substitutions=1)
    assert word_errors("我用 py 写", "我用 pz", "chinese", "character") == WordErrors(3, 1, 1, 0)
    assert total_word_errors([("你好", "你"), ("再见", "")], "chinese", "character").rate == pytest.approx(0.75)


def test_the_strict_rule_under_another_normaliser() -> None:
    assert is_same_answer("十二！", "十二。", "chinese")
    assert not is_same_answer("Yes", "yes", "verbatim")


def test_bootstrap_interval_covers_the_ratio_and_repeats_by_seed() -> None:
    pairs = [(1.0, 1.0)] * 90 + [(0.0, 1.0)] * 10
    low, high = bootstrap_interval(pairs, seed=1)
    assert low < 0.9 < high
    # The normal approximation of a share of 0.9 of 100 gives 0.84 to 0.96.
    assert low == pytest.approx(0.84, abs=0.02)
    assert high == pytest.approx(0.96, abs=0.02)
    assert bootstrap_interval(pairs, seed=1) == (low, high)
    assert bootstrap_interval(pairs, seed=2) != (low, high)


def test_bootstrap_interval_weighs_samples_by_their_length() -> None:
    low, high = bootstrap_interval([(0.0, 100.0), (1.0, 1.0)])
    assert (low, high) == (0.0, 1.0)
    low, high = bootstrap_interval(np.array([[5.0, 10.0], [50.0, 100.0]]))
    assert low == high == 0.5


def test_an_estimate_is_the_ratio_of_sums_with_its_interval() -> None:
    values = [(1.0, 1.0), (0.0, 9.0)]
    assert estimate(values) == Estimate(0.1, *bootstrap_interval(values), n=2)
    nothing = estimate([(2.0, 0.0)])
    assert nothing.n == 1 and all(map(math.isnan, (nothing.value, nothing.low, nothing.high)))


def test_bootstrap_interval_of_nothing_is_not_a_number() -> None:
    assert all(map(math.isnan, bootstrap_interval([])))
    assert all(map(math.isnan, bootstrap_interval([(1.0, 0.0)])))
