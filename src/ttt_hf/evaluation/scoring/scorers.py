"""Scorers by name: pure functions of what was recorded of a sample, so that scoring again needs no model and no judge.

| scorer | rule | metric |
|---|---|---|
| `wer` | words, aligned by `jiwer` | `wer` |
| `cer` | characters without spaces | `cer` |
| `mer` | CJK by character, the rest by word | `mer` |
| `same_answer` | the reply is the reference, both normalised | `accuracy` |
| `dpr_contains` | the reference's tokens are in the reply, side by side | `accuracy` |
| `choice` | the reply names the right one of the choices, and no other | `accuracy` |
| `openaudiobench_judge` | a judge says correct or incorrect, or gives 1 to 10 (`scale: grade_10`) | `score` |
| `voicebench_judge` | a judge gives 1 to 5, the mean of its answers | `score` |
| `clair_a` | a judge gives 0 to 100 for a caption | `score` |

A metric is the sum of numerators over the sum of denominators of all samples, times its scale. Nothing is left out: a
failed or empty reply deletes every word of its reference, is a wrong answer, and gets the lowest mark unasked. For
spoken replies, text and transcript are scored side by side (`accuracy_text`, `accuracy_speech`), and
`wer_speech_vs_text` tells whether the model says what it writes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..concepts import Record, SampleScore
from .normalizers import get_normalizer, normalizer_versions
from .rules import (
    score_cer,
    score_choice,
    score_clair_a,
    score_dpr_contains,
    score_mer,
    score_openaudiobench_judge,
    score_same_answer,
    score_voicebench_judge,
    score_wer,
)


# Changes of the rules, and scores with them, raise this.
SCORERS_VERSION = 1


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is shown.

    Args:
        higher_is_better: Or lower.
        unit: Behind the number.
        scale: The number is this times the sum of numerators over the sum of denominators.
    """

    higher_is_better: bool
    unit: str = "%"
    scale: float = 100.0


@dataclass(frozen=True)
class ScorerEntry:
    """A scorer and what its numbers mean.

    Args:
        function: Scores one record; its other parameters are the options of a task.
        metrics: All metrics it can give, by name.
        headline: The one that counts, for replies in text.
        judge_prompt: What a judge is asked where a task does not say it; none for scorers that need no judge.
    """

    function: Callable[..., SampleScore]
    metrics: Mapping[str, MetricInfo]
    headline: str
    judge_prompt: str | None = None

    @property
    def needs_judge(self) -> bool:
        """Whether records need judgements."""
        return self.judge_prompt is not None

    def headline_of(self, output: Literal["text", "speech"]) -> str:
        """The metric that counts: for spoken replies, that of what was heard."""
        return f"{self.headline}_speech" if output == "speech" else self.headline


def bind_scorer(name: str, options: Mapping[str, Any] | None = None) -> Callable[[Record], SampleScore]:
    """Finds a scorer and checks a task's options for it, before anything slow begins.

    Args:
        name: One of `SCORERS`.
        options: The task's `scorer_options`.

    Returns:
        The scorer with these options.

    Raises:
        ValueError: There is no such scorer, option, normaliser or rule for special tokens.
        ModuleNotFoundError: The normaliser's package is not installed.
    """
    if not isinstance(name, str) or name not in SCORERS:
        raise ValueError(f"There is no scorer {name!r}: choose one of {', '.join(SCORERS)}.")
    function, options = SCORERS[name].function, dict(options or {})
    known = [key for key in inspect.signature(function).parameters if key != "record"]
    for key in options:
        if key not in known:
            raise ValueError(f"The scorer {name!r} has no option {key!r}: it has {', '.join(known)}.")
    if "normalizer" in known:
        get_normalizer(options.get("normalizer", inspect.signature(function).parameters["normalizer"].default))
    if options.get("special_tokens", "strip") not in ("strip", "keep"):
        raise ValueError(f"special_tokens is {options['special_tokens']!r}: choose strip or keep.")
    if name == "choice" and len(set(options.get("choices", ()))) < 2:
        raise ValueError("The scorer 'choice' needs the option choices, a list of two or more.")
    if options.get("scale", "verdict") not in ("verdict", "grade_10"):
        raise ValueError(f"scale is {options['scale']!r}: choose verdict or grade_10.")
    return functools.partial(function, **options)


def scorer_versions() -> dict[str, str | int | None]:
    """Versions of everything that decides a score but the records, for results.

    Returns:
        Package -> version, and `scorers` -> number of the rules in this package.
    """
    return {"scorers": SCORERS_VERSION, **normalizer_versions()}


def _metrics(name: str, higher_is_better: bool, unit: str = "%", scale: float = 100.0) -> dict[str, MetricInfo]:
    """A metric for text, those of spoken replies, and the agreement of speech with text."""
    info = MetricInfo(higher_is_better, unit, scale)
    own = {f"{name}{channel}": info for channel in ("", "_text", "_speech")}
    return {**own, "wer_speech_vs_text": MetricInfo(higher_is_better=False)}


_FULL_MARKS = _metrics("score", higher_is_better=True)
_ACCURACY = _metrics("accuracy", higher_is_better=True)

SCORERS: dict[str, ScorerEntry] = {
    "wer": ScorerEntry(score_wer, _metrics("wer", higher_is_better=False), "wer"),
    "cer": ScorerEntry(score_cer, _metrics("cer", higher_is_better=False), "cer"),
    "mer": ScorerEntry(score_mer, _metrics("mer", higher_is_better=False), "mer"),
    "same_answer": ScorerEntry(score_same_answer, _ACCURACY, "accuracy"),
    "dpr_contains": ScorerEntry(score_dpr_contains, _ACCURACY, "accuracy"),
    "choice": ScorerEntry(score_choice, _ACCURACY, "accuracy"),
    "openaudiobench_judge": ScorerEntry(
        score_openaudiobench_judge, _FULL_MARKS, "score", judge_prompt="openaudiobench_verdict"
    ),
    "voicebench_judge": ScorerEntry(
        score_voicebench_judge,
        _metrics("score", higher_is_better=True, unit="of 5", scale=1.0),
        "score",
        judge_prompt="voicebench",
    ),
    "clair_a": ScorerEntry(score_clair_a, _FULL_MARKS, "score", judge_prompt="clair_a"),
}
