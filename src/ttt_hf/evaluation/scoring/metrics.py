"""What a text is worth against its reference: corpus word error rate, answer correctness, bootstrap intervals.

Word errors are counted by `jiwer` on text that a named normaliser has been over (by default Whisper's for English),
and added up over the corpus before they are divided: a mean of sentence rates would weigh a two-word sentence like a
twenty-word one. An empty hypothesis counts as deletions, never as a missing sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .normalizers import get_normalizer, split_mixed


# What is counted: words, characters without spaces, or the mixed-text rule (CJK by character, the rest by word).
Unit = Literal["word", "character", "mixed"]


@dataclass(frozen=True)
class WordErrors:
    """Counts of a word alignment; they add up, so that a corpus is the sum of its samples.

    Args:
        hits, substitutions, deletions, insertions: Words by kind.
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
        text: Any English text.

    Returns:
        The normalised words, separated by single spaces; may be empty.
    """
    return get_normalizer("whisper_english")(text)


def split_units(text: str, unit: Unit) -> list[str]:
    """What an error rate counts.

    Args:
        text: Normalised text.
        unit: Words; characters without the spaces; CJK by character and the rest by word.

    Returns:
        The units, in order.

    Raises:
        ValueError: There is no such unit.
    """
    if unit == "word":
        return text.split()
    if unit == "character":
        return list("".join(text.split()))
    if unit == "mixed":
        return split_mixed(text)
    raise ValueError(f"There is no unit {unit!r}: choose word, character or mixed.")


def word_errors(
    reference: str, hypothesis: str, normalizer: str = "whisper_english", unit: Unit = "word"
) -> WordErrors:
    """Aligns one hypothesis with its reference, both normalised.

    Args:
        reference: What should be there.
        hypothesis: What is there; empty for a failed reply.
        normalizer: Name of a normaliser, see [`get_normalizer`].
        unit: What is counted, see [`split_units`].

    Returns:
        The counts of this pair.

    Raises:
        ModuleNotFoundError: `jiwer` or the normaliser's package is not installed.
    """
    try:
        import jiwer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Error rates need jiwer: pip install 'ttt-hf[eval]'.", name=error.name) from error

    normalize = get_normalizer(normalizer)
    expected, given = (split_units(normalize(text), unit) for text in (reference, hypothesis))
    if not expected:
        # jiwer refuses empty references; every word of the hypothesis is an insertion then.
        return WordErrors(insertions=len(given))
    if not given:
        return WordErrors(deletions=len(expected))
    counts = jiwer.process_words(" ".join(expected), " ".join(given))
    return WordErrors(counts.hits, counts.substitutions, counts.deletions, counts.insertions)


def total_word_errors(
    pairs: Iterable[tuple[str, str]], normalizer: str = "whisper_english", unit: Unit = "word"
) -> WordErrors:
    """Word errors of a corpus.

    Args:
        pairs: (reference, hypothesis) of each sample.
        normalizer, unit: See [`word_errors`].

    Returns:
        The summed counts; `.rate` is the corpus word error rate.
    """
    counts = (word_errors(reference, hypothesis, normalizer, unit) for reference, hypothesis in pairs)
    return sum(counts, WordErrors())


def is_same_answer(answer: str, reference: str, normalizer: str = "whisper_english") -> bool:
    """The strict rule: the answer says exactly what the reference says, up to normalisation.

    In a closed domain the reference is the whole sentence, content and echo of the question included ("Seven plus
    five is twelve."), so that a right number in a wrong sentence does not pass. An empty answer is never right.

    Args:
        answer: The reply.
        reference: The expected reply.
        normalizer: Name of a normaliser, see [`get_normalizer`].

    Returns:
        Whether the normalised texts are equal and not empty.
    """
    normalize = get_normalizer(normalizer)
    answer, reference = normalize(answer), normalize(reference)
    return bool(answer) and answer == reference


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
        resamples: How many times the samples are drawn anew, with replacement.
        level: Coverage, between 0 and 1.
        seed: Seed of the draws.

    Returns:
        Lower and upper end; not a number where there is no sample.
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
