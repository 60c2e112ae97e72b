"""Corpus word error rate, answer correctness, and bootstrap intervals.

Words are aligned by `jiwer` after a named normaliser (Whisper's for English by default). Errors are summed over the
corpus before they are divided: a mean of sentence rates would weigh a two-word sentence like a twenty-word one. An
empty hypothesis counts as deletions, never as a missing sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from .normalizers import counts_spaces, get_normalizer, split_mixed


# What is counted: words, characters, or CJK by character and the rest by word.
Unit = Literal["word", "character", "mixed"]


@dataclass(frozen=True)
class WordErrors:
    """Counts of a word alignment; they add up, so that a corpus is the sum of its samples."""

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
        """Word error rate as a fraction; may exceed 1, and is NaN where the reference has no words."""
        return self.errors / self.reference_words if self.reference_words else float("nan")

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


@dataclass(frozen=True)
class Estimate:
    """A ratio of sums over samples with its 95 % bootstrap interval; NaN where no denominator is above zero.

    Args:
        n: Number of samples.
    """

    value: float
    low: float
    high: float
    n: int


def normalize_english(text: str) -> str:
    """Whisper's English normalisation: lower case, no punctuation, contractions spelled out, numbers as digits."""
    return get_normalizer("whisper_english")(text)


def word_errors(
    reference: str, hypothesis: str, normalizer: str = "whisper_english", unit: Unit = "word"
) -> WordErrors:
    """Aligns a hypothesis with its reference, both normalised.

    Args:
        hypothesis: Empty for a failed reply.
        normalizer: Name of a normaliser, see [`get_normalizer`].
        unit: Words; characters, including the spaces between words except with the Chinese normalisers; or `mixed`,
            CJK by character and the rest by word.

    Raises:
        ValueError: If there is no such unit or normaliser.
        ModuleNotFoundError: If `jiwer` or the normaliser's package is not installed.
    """
    jiwer = require_jiwer()
    if unit not in get_args(Unit):
        raise ValueError(f"There is no unit {unit!r}: choose word, character or mixed.")
    normalize = get_normalizer(normalizer)
    texts = [normalize(text) for text in (reference, hypothesis)]
    if unit == "mixed":
        # CJK characters become words of their own, so that the alignment of words counts both.
        texts = [" ".join(split_mixed(text)) for text in texts]
    elif unit == "character" and not counts_spaces(normalizer):
        # Spaces in Chinese come from the transcriber or from dropped punctuation: they are no errors.
        texts = [text.replace(" ", "") for text in texts]
    align = jiwer.process_characters if unit == "character" else jiwer.process_words
    # Reference first: the order tells deletions from insertions.
    counts = align(texts[0], texts[1])
    return WordErrors(counts.hits, counts.substitutions, counts.deletions, counts.insertions)


def require_jiwer() -> Any:
    """Imports the package that aligns words."""
    try:
        import jiwer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Error rates need jiwer: pip install 'ttt-hf[eval]'.", name=error.name) from error
    return jiwer


def total_word_errors(
    pairs: Iterable[tuple[str, str]], normalizer: str = "whisper_english", unit: Unit = "word"
) -> WordErrors:
    """Word errors of a corpus; `.rate` is the corpus word error rate.

    Args:
        pairs: (reference, hypothesis) of each sample.
        normalizer, unit: See [`word_errors`].
    """
    counts = (word_errors(reference, hypothesis, normalizer, unit) for reference, hypothesis in pairs)
    # Summed before they are divided, see the top of this module.
    return sum(counts, WordErrors())


def is_same_answer(answer: str, reference: str, normalizer: str = "whisper_english") -> bool:
    """Whether an answer equals its reference after normalisation. An empty answer is never right.

    In a closed domain the reference is the complete sentence, with its echo of the question ("Seven plus five is
    twelve."), so that a right number in a wrong sentence does not pass.

    Args:
        normalizer: Name of a normaliser, see [`get_normalizer`].
    """
    normalize = get_normalizer(normalizer)
    answer, reference = normalize(answer), normalize(reference)
    # A reference may be empty after normalisation, too.
    return bool(answer) and answer == reference


def estimate(values: Sequence[tuple[float, float]]) -> Estimate:
    """Sum of numerators over sum of denominators, with its bootstrap interval.

    Args:
        values: Numerator and denominator of each sample.
    """
    # A ratio of sums: long samples weigh more than short ones.
    numerator, denominator = (sum(column) for column in zip(*values)) if values else (0.0, 0.0)
    low, high = bootstrap_interval(values)
    return Estimate(numerator / denominator if denominator else float("nan"), low, high, len(values))


def bootstrap_interval(
    values: Sequence[Sequence[float]] | np.ndarray,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a ratio of sums over samples.

    Args:
        values: Numerator and denominator of each sample, such as errors and reference words, or 1 / 0 and 1, shape
            `(samples, 2)`.
        resamples: How often the samples are resampled with replacement.
        level: Coverage, between 0 and 1.

    Returns:
        Lower and upper end; NaN without samples.
    """
    pairs = np.asarray(values, dtype=np.float64).reshape(-1, 2)
    if len(pairs) == 0:
        return float("nan"), float("nan")
    # Samples are drawn with both of their numbers, since errors and lengths belong together.
    draws = np.random.default_rng(seed).integers(0, len(pairs), size=(resamples, len(pairs)))
    # (resamples, samples, 2) -> (resamples, 2)
    sums = pairs[draws].sum(axis=1)
    # A resample of empty references has a denominator of zero.
    ratios = sums[sums[:, 1] > 0]
    if len(ratios) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(ratios[:, 0] / ratios[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
