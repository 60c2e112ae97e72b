"""What a text is worth against its reference: corpus word error rate, answer correctness, bootstrap intervals.

Word errors are counted by `jiwer` on text that Whisper's `EnglishTextNormalizer` (package `whisper-normalizer`) has
normalised, and added up over the corpus before they are divided: a mean of sentence rates would weigh a two-word
sentence like a twenty-word one. An empty hypothesis counts as deletions, never as a missing sample.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class WordErrors:
    """Counts of a word alignment; they add up, so that a corpus is the sum of its samples.

    Args:
        hits (`int`), substitutions (`int`), deletions (`int`), insertions (`int`): Words by kind.
    """

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_words(self) -> int:
        """Words of the reference: the denominator, also where the hypothesis is longer."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Word error rate as a fraction; may pass 1, and is not a number where the reference holds no word."""
        return self.errors / self.reference_words if self.reference_words else float("nan")

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


def normalize_english(text: str) -> str:
    """Whisper's English normalisation: lower case, no punctuation, contractions spelled out, numbers as digits.

    Args:
        text (`str`): Any English text.

    Returns:
        `str`: The normalised words, separated by single spaces; may be empty.
    """
    return " ".join(_english_normalizer()(text).split())


def word_errors(reference: str, hypothesis: str) -> WordErrors:
    """Aligns one hypothesis with its reference, both normalised.

    Args:
        reference (`str`): What should be there.
        hypothesis (`str`): What is there; empty for a failed reply.

    Returns:
        `WordErrors`: The counts of this pair.
    """
    import jiwer

    reference, hypothesis = normalize_english(reference), normalize_english(hypothesis)
    if not reference:
        # jiwer refuses empty references; every word of the hypothesis is an insertion then.
        return WordErrors(insertions=len(hypothesis.split()))
    if not hypothesis:
        return WordErrors(deletions=len(reference.split()))
    counts = jiwer.process_words(reference, hypothesis)
    return WordErrors(counts.hits, counts.substitutions, counts.deletions, counts.insertions)


def total_word_errors(pairs: Iterable[tuple[str, str]]) -> WordErrors:
    """Word errors of a corpus.

    Args:
        pairs (`Iterable[tuple[str, str]]`): (reference, hypothesis) of each sample.

    Returns:
        `WordErrors`: The summed counts; `.rate` is the corpus word error rate.
    """
    return sum((word_errors(reference, hypothesis) for reference, hypothesis in pairs), WordErrors())


def is_same_answer(answer: str, reference: str) -> bool:
    """The strict rule: the answer says exactly what the reference says, up to normalisation.

    In a closed domain the reference is the whole sentence, content and echo of the question included ("Seven plus
    five is twelve."), so that a right number in a wrong sentence does not pass. An empty answer is never right.

    Args:
        answer (`str`): The reply.
        reference (`str`): The expected reply.

    Returns:
        `bool`: Whether the normalised texts are equal and not empty.
    """
    answer, reference = normalize_english(answer), normalize_english(reference)
    return bool(answer) and answer == reference


def bootstrap_interval(
    values: Sequence[Sequence[float]] | np.ndarray,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a ratio of sums over samples.

    Args:
        values (`Sequence` or `np.ndarray` of shape `(samples, 2)`): Numerator and denominator of each sample, such as
            errors and reference words, or 1 / 0 and 1.
        resamples (`int`): How many times the samples are drawn anew, with replacement.
        level (`float`): Coverage, between 0 and 1.
        seed (`int`): Seed of the draws.

    Returns:
        `tuple[float, float]`: Lower and upper end; not a number where there is no sample.
    """
    pairs = np.asarray(values, dtype=np.float64).reshape(-1, 2)
    if len(pairs) == 0:
        return float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(0, len(pairs), size=(resamples, len(pairs)))
    sums = pairs[draws].sum(axis=1)
    # A draw may hold no reference word at all.
    estimates = sums[sums[:, 1] > 0]
    if len(estimates) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(estimates[:, 0] / estimates[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@functools.cache
def _english_normalizer() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()
