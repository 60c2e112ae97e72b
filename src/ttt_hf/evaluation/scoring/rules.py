"""The scoring rules, pure functions of one record; `scorers.py` lists them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ...overrides import shorten
from ..concepts import Record, SampleScore
from .answers import chosen, contains_answer
from .checks import is_empty, is_other_language, is_repetition_loop
from .metrics import Unit, WordErrors, is_same_answer, word_errors
from .normalizers import get_normalizer, has_special_tokens, strip_special_tokens


ALIGNMENT_COUNTS = ("hits", "substitutions", "deletions", "insertions")


@dataclass(frozen=True)
class TextOptions:
    """How replies are prepared before they are compared; options that every scorer takes.

    Args:
        normalizer: Name of a normaliser. Rules with tokens of their own use it for `wer_speech_vs_text` only.
        special_tokens: Whether special and timestamp tokens left in a reply are removed. They are counted either way.

    Raises:
        ValueError: If there is no such normaliser, or `special_tokens` is another value.
        ModuleNotFoundError: If the normaliser's package is not installed.
    """

    normalizer: str = "whisper_english"
    special_tokens: Literal["strip", "keep"] = "strip"

    def __post_init__(self) -> None:
        # Raises if there is no such normaliser, or its package is missing.
        get_normalizer(self.normalizer)
        if self.special_tokens not in ("strip", "keep"):
            raise ValueError(f"special_tokens is {shorten(repr(self.special_tokens))}: choose strip or keep.")

    def clean(self, text: str) -> str:
        """The text, without special tokens if they are to be stripped."""
        return strip_special_tokens(text) if self.special_tokens == "strip" else text


def score_errors(record: Record, options: TextOptions, *, metric: str, unit: Unit) -> SampleScore:
    """Scores `wer`, `cer` and `mer`: errors against the one reference, over the length of the reference.

    Args:
        unit: What is counted, see [`word_errors`].

    Returns:
        Errors over reference units; the counts of the alignment are those of the headline metric.
    """
    if len(record.references) != 1:
        raise ValueError(
            f"An error rate needs one reference, and sample {record.id} has {len(record.references)}: choose another "
            "scorer, or one reference."
        )
    errors = {
        name: word_errors(record.references[0], options.clean(text), options.normalizer, unit)
        for name, text in _scored_texts(record, metric).items()
    }
    values = {name: (float(count.errors), float(count.reference_words)) for name, count in errors.items()}
    # The headline metric is the last one: of spoken replies, that of the transcript.
    return _complete(record, options, values, alignment=list(errors.values())[-1])


def score_same_answer(record: Record, options: TextOptions) -> SampleScore:
    """Scores 1 if the reply equals one of the references after normalisation, see [`is_same_answer`], else 0."""

    def is_right(reply: str) -> bool:
        return any(is_same_answer(reply, reference, options.normalizer) for reference in record.references)

    return _score_answer(record, options, is_right)


def score_dpr_contains(record: Record, options: TextOptions) -> SampleScore:
    """Scores 1 if the reply contains a reference's tokens, see [`contains_answer`], else 0."""
    return _score_answer(record, options, lambda reply: contains_answer(reply, record.references))


def score_choice(record: Record, options: TextOptions, *, choices: Sequence[str] = ()) -> SampleScore:
    """Scores 1 if the reply names a reference and no other choice, see [`chosen`], else 0."""
    if strangers := [reference for reference in record.references if reference not in choices]:
        raise ValueError(f"The reference {strangers[0]!r} of sample {record.id} is not among the choices.")
    return _score_answer(record, options, lambda reply: chosen(reply, choices) in record.references)


def score_openaudiobench_judge(
    record: Record, options: TextOptions, *, scale: Literal["verdict", "grade_10"] = "verdict"
) -> SampleScore:
    """OpenAudioBench's rule, see [`score_judged`].

    Args:
        scale: What the judge's prompt asks for: 1 or 0 for correct or incorrect, or a grade from 1 to 10, scored as
            tenths.
    """
    lowest, highest = (1.0, 10.0) if scale == "grade_10" else (0.0, 1.0)
    return score_judged(record, options, lowest, highest, 1.0)


def score_voicebench_judge(record: Record, options: TextOptions) -> SampleScore:
    """VoiceBench's rule: the mean of several grades from 1 to 5, kept on that scale, see [`score_judged`]."""
    return score_judged(record, options, 1.0, 5.0, 5.0)


def score_clair_a(record: Record, options: TextOptions) -> SampleScore:
    """CLAIR-A's grade of a caption, 0 to 100, scored as a fraction; without its tie-breaker, see [`score_judged`]."""
    return score_judged(record, options, 0.0, 100.0, 1.0)


def score_judged(
    record: Record, options: TextOptions, lowest: float, highest: float, full_score: float
) -> SampleScore:
    """Scores the mean of a judge's grades.

    An empty reply is not judged and gets the lowest grade. Unreadable answers of the judge are no grades: they are
    counted as `judge_errors`, and a sample without any grade has no value, so that the task has no headline.

    Args:
        lowest, highest: Ends of the judge's scale.
        full_score: Score of the highest grade.
    """
    values, errors = {}, 0
    for name, reply in _scored_texts(record, "score").items():
        # Text and transcript of a spoken reply are judged apart.
        about = "transcript" if name.endswith("_speech") else "text"
        judgements = [judgement for judgement in record.judgements if judgement.about == about]
        grades = [judgement.score for judgement in judgements if judgement.score is not None]
        # A prompt with another scale would give plausible, but wrong scores.
        if strays := [grade for grade in grades if not lowest <= grade <= highest]:
            raise ValueError(
                f"Sample {record.id} has the grade {strays[0]:g}, which is not within {lowest:g} and {highest:g}: the "
                "judge's prompt and the scorer's scale do not belong together."
            )
        if is_empty(reply):
            # Grades are multiplied by full_score / highest, and not shifted: the lowest of 1 to 5 stays 1.
            values[name] = (lowest * full_score / highest, 1.0)
            continue
        if not judgements:
            raise ValueError(f"The {about} of sample {record.id} has not been judged: run `ttt-hf eval judge` first.")
        # Answers without a readable grade do not enter the mean.
        errors += len(judgements) - len(grades)
        if grades:
            values[name] = (sum(grades) / len(grades) * full_score / highest, 1.0)
    return _complete(record, options, values, counts={"judge_errors": errors})


def reply_counts(record: Record) -> dict[str, int]:
    """Defects of a reply, 1 or 0 each. A reply with defects stays in every denominator.

    Returns:
        `failed`, `empty` (no text), `silent` (no speech in the transcript), `truncated`, `repetitions`,
        `other_language` and `special_tokens`.
    """
    # The text first; of spoken replies, the transcript is the last.
    texts = list(_scored_texts(record, "").values())
    return {
        "failed": int(record.finish_reason == "error"),
        "empty": int(is_empty(texts[0])),
        "silent": int(record.transcript is not None and is_empty(texts[-1])),
        "truncated": int(record.finish_reason == "length"),
        "repetitions": int(record.finish_reason == "repetition" or any(is_repetition_loop(text) for text in texts)),
        "other_language": int(any(is_other_language(text, record.language) for text in texts)),
        "special_tokens": int(any(has_special_tokens(text) for text in texts)),
    }


def _score_answer(record: Record, options: TextOptions, is_right: Callable[[str], bool]) -> SampleScore:
    if not record.references:
        raise ValueError(f"Sample {record.id} has no reference: nothing can be right.")
    texts = _scored_texts(record, "accuracy")
    values = {name: (float(is_right(options.clean(text))), 1.0) for name, text in texts.items()}
    return _complete(record, options, values)


def _complete(
    record: Record,
    options: TextOptions,
    values: Mapping[str, tuple[float, float]],
    alignment: WordErrors | None = None,
    counts: Mapping[str, int] | None = None,
) -> SampleScore:
    """Adds what all scorers report: agreement of speech with text, counts of an alignment, defects of the reply."""
    values = dict(values)
    if record.transcript is not None:
        agreement = _speech_errors(record, options)
        # How well the model reads its own text aloud, whatever the scorer.
        values["wer_speech_vs_text"] = (float(agreement.errors), float(agreement.reference_words))
        alignment = alignment or agreement
    aligned = {} if alignment is None else {kind: getattr(alignment, kind) for kind in ALIGNMENT_COUNTS}
    return SampleScore(values, {**aligned, **reply_counts(record), **(counts or {})})


def _speech_errors(record: Record, options: TextOptions) -> WordErrors:
    """Errors of the transcript against the reply's own text, CJK by character."""
    text, transcript = (options.clean(text) for text in _scored_texts(record, "").values())
    if is_empty(text) and record.references:
        # A reply without text offers nothing to compare with: the words that it should have said count as deleted.
        text = record.references[0]
    return word_errors(text, transcript, options.normalizer, unit="mixed")


def _scored_texts(record: Record, metric: str) -> dict[str, str]:
    """Name of the metric -> text that it scores; of spoken replies text, then transcript. A failed reply is empty."""
    # A reply that failed midway may have a text already: scoring it would reward the failure.
    is_failed = record.finish_reason == "error"
    text = "" if is_failed else record.text
    if record.transcript is None:
        return {metric: text}
    return {f"{metric}_text": text, f"{metric}_speech": "" if is_failed else record.transcript}
