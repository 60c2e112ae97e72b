"""The rules of the scorers: each a pure function of one record, see `scorers.py` for the table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from ..concepts import Record, SampleScore
from .answers import chosen, contains_answer
from .checks import is_empty, is_other_language, is_repetition_loop
from .metrics import Unit, WordErrors, is_same_answer, word_errors
from .normalizers import has_special_tokens, strip_special_tokens


# What is done with special and timestamp tokens that were left in a reply; they are counted either way.
SpecialTokens = Literal["strip", "keep"]


def score_errors(
    record: Record, metric: str, unit: Unit, normalizer: str, special_tokens: SpecialTokens
) -> SampleScore:
    """Errors against the one reference, over the reference's length: what `wer`, `cer` and `mer` do.

    Args:
        record: The sample; it has exactly one reference.
        metric: Name of the metric.
        unit: What is counted, see [`split_units`].
        normalizer: Name of a normaliser.
        special_tokens: Whether leftover special tokens are taken out first.

    Returns:
        Errors over reference units, and the kinds of errors of what is the headline.

    Raises:
        ValueError: If there is not exactly one reference.
    """
    if len(record.references) != 1:
        raise ValueError(
            f"An error rate needs one reference, and sample {record.id} has {len(record.references)}: choose another "
            "scorer, or one reference."
        )
    measure = functools.partial(word_errors, record.references[0], normalizer=normalizer, unit=unit)
    errors = {channel: measure(_clean(text, special_tokens)) for channel, text in _replies(record, metric).items()}
    values = {channel: (float(count.errors), float(count.reference_words)) for channel, count in errors.items()}
    return _score(record, values, list(errors.values())[-1], normalizer, special_tokens)


def score_wer(
    record: Record, *, normalizer: str = "whisper_english", special_tokens: SpecialTokens = "strip"
) -> SampleScore:
    """Word error rate, see [`score_errors`]."""
    return score_errors(record, "wer", "word", normalizer, special_tokens)


def score_cer(
    record: Record, *, normalizer: str = "chinese_cardinal", special_tokens: SpecialTokens = "strip"
) -> SampleScore:
    """Character error rate, see [`score_errors`]."""
    return score_errors(record, "cer", "character", normalizer, special_tokens)


def score_mer(
    record: Record, *, normalizer: str = "chinese_cardinal", special_tokens: SpecialTokens = "strip"
) -> SampleScore:
    """Mixed error rate, CJK by character and the rest by word, see [`score_errors`]."""
    return score_errors(record, "mer", "mixed", normalizer, special_tokens)


def score_same_answer(
    record: Record, *, normalizer: str = "whisper_english", special_tokens: SpecialTokens = "strip"
) -> SampleScore:
    """Right where the reply says exactly what one of the references says, see [`is_same_answer`].

    Args:
        record: The sample.
        normalizer: Name of a normaliser.
        special_tokens: Whether leftover special tokens are taken out first.

    Returns:
        1 or 0 over 1.
    """

    def is_right(reply: str) -> bool:
        return any(is_same_answer(reply, reference, normalizer) for reference in record.references)

    return _score_answer(record, is_right, normalizer, special_tokens)


def score_dpr_contains(
    record: Record, *, normalizer: str = "whisper_english", special_tokens: SpecialTokens = "strip"
) -> SampleScore:
    """Right where a reference's tokens are in the reply, see [`contains_answer`].

    Args:
        record: The sample.
        normalizer: Name of a normaliser, for `wer_speech_vs_text` only: the rule has its own.
        special_tokens: Whether leftover special tokens are taken out first.

    Returns:
        1 or 0 over 1.
    """
    return _score_answer(record, lambda reply: contains_answer(reply, record.references), normalizer, special_tokens)


def score_choice(
    record: Record,
    *,
    choices: Sequence[str] = (),
    normalizer: str = "whisper_english",
    special_tokens: SpecialTokens = "strip",
) -> SampleScore:
    """Right where the reply names a reference and no other choice, see [`chosen`].

    Args:
        record: The sample; its references are choices.
        choices: What there is to choose from.
        normalizer: Name of a normaliser, for `wer_speech_vs_text` only.
        special_tokens: Whether leftover special tokens are taken out first.

    Returns:
        1 or 0 over 1.

    Raises:
        ValueError: A reference is not among the choices, so that no reply could be right.
    """
    if strangers := [reference for reference in record.references if reference not in choices]:
        raise ValueError(f"The reference {strangers[0]!r} of sample {record.id} is not among the choices.")
    return _score_answer(record, lambda reply: chosen(reply, choices) in record.references, normalizer, special_tokens)


def score_openaudiobench_judge(
    record: Record,
    *,
    scale: Literal["verdict", "grade_10"] = "verdict",
    normalizer: str = "whisper_english",
    special_tokens: SpecialTokens = "strip",
) -> SampleScore:
    """OpenAudioBench's rule: the share that a judge calls correct, or a judge's grade from 1 to 10, times ten.

    Args:
        record: The sample with its judgements.
        scale: 1 or 0 for correct or incorrect, or the grade; the prompt decides.
        normalizer: Name of a normaliser, for `wer_speech_vs_text` only.
        special_tokens: As for `wer_speech_vs_text`; the judge sees replies without them.

    Returns:
        Mark over 1, see [`score_judged`].
    """
    lowest, highest = (1.0, 10.0) if scale == "grade_10" else (0.0, 1.0)
    return score_judged(record, lowest, highest, 1.0, normalizer, special_tokens)


def score_voicebench_judge(
    record: Record, *, normalizer: str = "whisper_english", special_tokens: SpecialTokens = "strip"
) -> SampleScore:
    """VoiceBench's rule: the mean of several grades from 1 to 5, shown on that scale, see [`score_judged`]."""
    return score_judged(record, 1.0, 5.0, 5.0, normalizer, special_tokens)


def score_clair_a(
    record: Record, *, normalizer: str = "whisper_english", special_tokens: SpecialTokens = "strip"
) -> SampleScore:
    """CLAIR-A's mark for a caption, 0 to 100, without its tie-breaker, see [`score_judged`]."""
    return score_judged(record, 0.0, 100.0, 1.0, normalizer, special_tokens)


def score_judged(
    record: Record, lowest: float, highest: float, full: float, normalizer: str, special_tokens: SpecialTokens
) -> SampleScore:
    """The mean of what a judge gave.

    An empty reply is not judged and gets the lowest mark. Answers of the judge that could not be read are no marks:
    they are counted as `judge_errors`, and a sample without any mark has no value, so that there is no headline.

    Args:
        record: The sample with its judgements.
        lowest, highest: Ends of the judge's scale.
        full: What the highest mark counts.
        normalizer, special_tokens: For `wer_speech_vs_text`.

    Returns:
        Mark over 1.

    Raises:
        ValueError: A reply that should have been judged has not been, or a mark is not on the scale.
    """
    values, errors = {}, 0
    for channel, reply in _replies(record, "score").items():
        about = "transcript" if channel.endswith("_speech") else "text"
        judgements = [judgement for judgement in record.judgements if judgement.about == about]
        marks = [judgement.score for judgement in judgements if judgement.score is not None]
        if strays := [mark for mark in marks if not lowest <= mark <= highest]:
            raise ValueError(
                f"Sample {record.id} has the mark {strays[0]:g}, which is not within {lowest:g} and {highest:g}: the "
                "judge's prompt and the scorer's scale do not belong together."
            )
        if is_empty(reply):
            values[channel] = (lowest * full / highest, 1.0)
            continue
        if not judgements:
            raise ValueError(f"The {about} of sample {record.id} has not been judged: run `ttt-hf eval judge` first.")
        errors += len(judgements) - len(marks)
        if marks:
            values[channel] = (sum(marks) / len(marks) * full / highest, 1.0)
    return _score(record, values, None, normalizer, special_tokens, {"judge_errors": errors})


def _score_answer(
    record: Record, is_right: Callable[[str], bool], normalizer: str, special_tokens: SpecialTokens
) -> SampleScore:
    if not record.references:
        raise ValueError(f"Sample {record.id} has no reference: nothing can be right.")
    replies = _replies(record, "accuracy")
    values = {channel: (float(is_right(_clean(text, special_tokens))), 1.0) for channel, text in replies.items()}
    return _score(record, values, None, normalizer, special_tokens)


def _score(
    record: Record,
    values: Mapping[str, tuple[float, float]],
    errors: WordErrors | None,
    normalizer: str,
    special_tokens: SpecialTokens,
    counts: Mapping[str, int] | None = None,
) -> SampleScore:
    """Adds what every scorer tells: whether speech says what the text says, and what is wrong with the reply."""
    values = dict(values)
    if record.transcript is not None:
        said = _speech_errors(record, normalizer, special_tokens)
        values["wer_speech_vs_text"] = (float(said.errors), float(said.reference_words))
        errors = errors or said
    alignment = {}
    if errors is not None:
        names = ("hits", "substitutions", "deletions", "insertions")
        alignment = {name: getattr(errors, name) for name in names}
    return SampleScore(values, {**alignment, **reply_counts(record), **(counts or {})})


def _speech_errors(record: Record, normalizer: str, special_tokens: SpecialTokens) -> WordErrors:
    """The transcript against the reply's own text, CJK by character."""
    written, heard = (_clean(text, special_tokens) for text in _replies(record, "").values())
    if is_empty(written) and record.references:
        # A reply without words has nothing to compare with: what it should have said is deleted.
        written = record.references[0]
    return word_errors(written, heard, normalizer, unit="mixed")


def reply_counts(record: Record) -> dict[str, int]:
    """What is wrong with a reply whatever its score is, 1 or 0 each; all of them stay in every denominator.

    Args:
        record: The sample.

    Returns:
        `failed`, `empty` (nothing was written), `silent` (nothing is heard), `truncated`, `repetitions`,
        `other_language` and `special_tokens`.
    """
    texts = list(_replies(record, "").values())
    return {
        "failed": int(record.finish_reason == "error"),
        "empty": int(is_empty(texts[0])),
        "silent": int(record.transcript is not None and is_empty(texts[-1])),
        "truncated": int(record.finish_reason == "length"),
        "repetitions": int(any(is_repetition_loop(text) for text in texts)),
        "other_language": int(any(is_other_language(text, record.language) for text in texts)),
        "special_tokens": int(any(has_special_tokens(text) for text in texts)),
    }


def _replies(record: Record, metric: str) -> dict[str, str]:
    """Metric -> what it scores: the text, and behind it the transcript of spoken replies. A failed reply is empty."""
    is_failed = record.finish_reason == "error"
    text = "" if is_failed else record.text
    if record.transcript is None:
        return {metric: text}
    return {f"{metric}_text": text, f"{metric}_speech": "" if is_failed else record.transcript}


def _clean(text: str, special_tokens: SpecialTokens) -> str:
    return strip_special_tokens(text) if special_tokens == "strip" else text
