"""Scorers by name: pure functions of the recorded data, so that scoring again needs no model and no judge.

| scorer | rule | metric |
|---|---|---|
| `wer` | words, aligned by `jiwer` | `wer` |
| `cer` | characters; spaces are none with the Chinese normalisers | `cer` |
| `mer` | CJK by character, the rest by word | `mer` |
| `same_answer` | the reply equals the reference, both normalised | `accuracy` |
| `dpr_contains` | the reply contains the reference's tokens, contiguously | `accuracy` |
| `choice` | the reply names the right choice and no other | `accuracy` |
| `openaudiobench_judge` | a judge says correct or incorrect, or grades from 1 to 10 (`scale: grade_10`) | `score` |
| `voicebench_judge` | a judge grades from 1 to 5, several times | `score` |
| `clair_a` | a judge grades a caption from 0 to 100 | `score` |

A metric is the sum of numerators over the sum of denominators of all samples. Nothing is left out: a failed or empty
reply deletes every word of its reference, is a wrong answer, and gets a judge's lowest grade. Of spoken replies, text
and transcript are scored side by side (`accuracy_text`, `accuracy_speech`); `wer_speech_vs_text` compares the two.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from ..concepts import Record, SampleScore
from .metrics import Estimate, estimate
from .normalizers import normalizer_versions
from .rules import (
    TextOptions,
    score_choice,
    score_clair_a,
    score_dpr_contains,
    score_errors,
    score_openaudiobench_judge,
    score_same_answer,
    score_voicebench_judge,
)


# Raised with every change of a rule that changes scores.
SCORERS_VERSION = 3

FRACTION = "fraction"
TEXT_OPTIONS = tuple(field.name for field in fields(TextOptions))


@dataclass(frozen=True)
class MetricInfo:
    """Direction and unit of a metric.

    Args:
        unit: `"fraction"`, or the scale of a judge whose grades are kept as they are, such as `"of 5"`.
    """

    higher_is_better: bool
    unit: str = FRACTION


@dataclass(frozen=True)
class ScorerEntry:
    """A scorer and its metrics.

    Args:
        function: Scores a record under [`TextOptions`]; further options are keyword arguments.
        metrics: All metrics that it can give, by name.
        headline: The metric that counts for replies in text.
        own_options: Options besides those of [`TextOptions`].
        normalizer: Normaliser where the task names none.
        judge_prompt: Prompt of the judge where the task names none; none for scorers without a judge.
    """

    function: Callable[..., SampleScore]
    metrics: Mapping[str, MetricInfo]
    headline: str
    own_options: tuple[str, ...] = ()
    normalizer: str = TextOptions.normalizer
    judge_prompt: str | None = None

    @property
    def needs_judge(self) -> bool:
        """Whether records need judgements."""
        return self.judge_prompt is not None

    def headline_of(self, output: Literal["text", "speech"]) -> str:
        """The metric that counts: for spoken replies, that of the transcript."""
        return f"{self.headline}_speech" if output == "speech" else self.headline


def bind_scorer(name: str, options: Mapping[str, Any] | None = None) -> Callable[[Record], SampleScore]:
    """Looks up a scorer and checks the options for it, before anything slow begins.

    Args:
        name: One of `SCORERS`.
        options: The task's `scorer_options`.
    """
    text_options, own = check_options(name, options or {})
    # Here, not in check_options, which also takes options that are still incomplete.
    if name == "choice" and not _has_texts(own.get("choices"), at_least=2):
        raise ValueError("The scorer 'choice' needs the option choices, a list of two texts or more.")
    return functools.partial(SCORERS[name].function, options=text_options, **own)


def check_options(name: str, options: Mapping[str, Any]) -> tuple[TextOptions, dict[str, Any]]:
    """Checks options of a scorer as far as they are given.

    Returns:
        The options that all scorers have, and those of this one.
    """
    if not isinstance(name, str) or name not in SCORERS:
        raise ValueError(f"There is no scorer {name!r}: choose one of {', '.join(SCORERS)}.")
    entry = SCORERS[name]
    # A misspelled option would otherwise leave its default in effect.
    known = (*entry.own_options, *TEXT_OPTIONS)
    for key in options:
        if key not in known:
            raise ValueError(f"The scorer {name!r} has no option {key!r}: it has {', '.join(known)}.")
    # The rule itself would take any other value for a verdict.
    if options.get("scale", "verdict") not in ("verdict", "grade_10"):
        raise ValueError(f"scale is {options['scale']!r}: choose verdict or grade_10.")
    shared = {key: value for key, value in options.items() if key in TEXT_OPTIONS}
    own = {key: value for key, value in options.items() if key in entry.own_options}
    # The scorer's own normaliser, unless another one is given.
    return TextOptions(**{"normalizer": entry.normalizer, **shared}), own


def aggregate(scorer: str, scores: Sequence[SampleScore]) -> tuple[dict[str, Estimate], Counter[str]]:
    """Sums the scores of samples up to corpus metrics.

    Args:
        scorer: Name of the scorer that gave them.

    Returns:
        The scorer's metrics that at least one sample has a value of, and the summed counts.
    """
    metrics = {}
    for name in SCORERS[scorer].metrics:
        # A text reply has no value of the `_speech` metrics, and one without any readable grade has no score.
        if values := [score.values[name] for score in scores if name in score.values]:
            metrics[name] = estimate(values)
    counts: Counter[str] = Counter()
    for score in scores:
        counts.update(score.counts)
    return metrics, counts


def printed_unit(unit: str) -> tuple[float, str]:
    """How values of a unit are printed: the factor they are multiplied by and the unit after them.

    Fractions are printed in percent, everything else as it is.
    """
    return (100.0, "%") if unit == FRACTION else (1.0, unit)


def scorer_versions() -> dict[str, str | int | None]:
    """Versions that scores of the same records depend on.

    Returns:
        Package -> version; `scorers` is the version of the rules in this package.
    """
    return {"scorers": SCORERS_VERSION, **normalizer_versions()}


def _has_texts(values: Any, at_least: int) -> bool:
    is_list = isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)
    return is_list and len(set(values)) >= at_least


def _metrics(name: str, higher_is_better: bool, unit: str = FRACTION) -> dict[str, MetricInfo]:
    """A metric of replies in text, of text and transcript of spoken replies, and the agreement of these two."""
    info = MetricInfo(higher_is_better, unit)
    own = {f"{name}{channel}": info for channel in ("", "_text", "_speech")}
    return {**own, "wer_speech_vs_text": MetricInfo(higher_is_better=False)}


def _error_rate(
    name: str, unit: Literal["word", "character", "mixed"], normalizer: str = TextOptions.normalizer
) -> ScorerEntry:
    rule = functools.partial(score_errors, metric=name, unit=unit)
    return ScorerEntry(rule, _metrics(name, higher_is_better=False), name, normalizer=normalizer)


_ACCURACY = _metrics("accuracy", higher_is_better=True)
_SCORE = _metrics("score", higher_is_better=True)

SCORERS: dict[str, ScorerEntry] = {
    "wer": _error_rate("wer", "word"),
    "cer": _error_rate("cer", "character", "chinese_cardinal"),
    "mer": _error_rate("mer", "mixed", "chinese_cardinal"),
    "same_answer": ScorerEntry(score_same_answer, _ACCURACY, "accuracy"),
    "dpr_contains": ScorerEntry(score_dpr_contains, _ACCURACY, "accuracy"),
    "choice": ScorerEntry(score_choice, _ACCURACY, "accuracy", own_options=("choices",)),
    "openaudiobench_judge": ScorerEntry(
        score_openaudiobench_judge, _SCORE, "score", own_options=("scale",), judge_prompt="openaudiobench_verdict"
    ),
    "voicebench_judge": ScorerEntry(
        score_voicebench_judge,
        _metrics("score", higher_is_better=True, unit="of 5"),
        "score",
        judge_prompt="voicebench",
    ),
    "clair_a": ScorerEntry(score_clair_a, _SCORE, "score", judge_prompt="clair_a"),
}
