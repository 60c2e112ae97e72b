"""Base class of the scorers as metrics of the library `evaluate`; each metric is a file in `modules/`.

`evaluate.load` copies such a file into its cache and takes the first metric class that it finds in it. So the files
import this module by its full name, and not the class from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import datasets
import evaluate

from ..concepts import Record
from .rules import ALIGNMENT_COUNTS
from .scorers import SCORERS, TEXT_OPTIONS, aggregate, bind_scorer, check_options


# Counts that texts alone decide; the others need the recorded run.
TEXT_COUNTS = (*ALIGNMENT_COUNTS, "empty", "repetitions", "special_tokens")
# Arguments of `evaluate.load` that are not options of the scorer.
LOADER_ARGUMENTS = tuple(inspect.signature(evaluate.Metric.__init__).parameters)

INPUTS = """
Args:
    predictions: List of replies. An empty text (or None) for a failed reply, which counts as wrong.
    references: For each prediction a text, or a list of accepted texts{one_reference}.
{options}

Returns:
    {name}: Corpus value, as a fraction.
    {name}_low, {name}_high: Ends of its 95 % bootstrap interval.
    samples: Number of samples.
    {counts}: Counts over all samples.

Example:

{example}
"""
OPTIONS = {
    "normalizer": 'Name of a text normaliser, such as "verbatim"; "{default}" by default.',
    "special_tokens": '"strip" (default) removes special and timestamp tokens left in predictions, "keep" does not.',
    "choices": "List of all choices; required.",
}


class ScorerMetric(evaluate.Metric):
    """A scorer without a judge as a metric of `evaluate`.

    Options of the scorer are given to `evaluate.load`, or to `compute`, which takes precedence. Samples are scored and
    summed up by the functions that score the runs of `ttt-hf eval`.

    Raises:
        ValueError: If there is no such option or value.
        ModuleNotFoundError: If the normaliser's package is not installed.
    """

    scorer: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.options = {key: value for key, value in kwargs.items() if key not in LOADER_ARGUMENTS}
        # Before any predictions are collected. Options may be incomplete here: compute() can give the rest.
        check_options(self.scorer, self.options)
        super().__init__(*args, **{key: value for key, value in kwargs.items() if key in LOADER_ARGUMENTS})

    def add(self, *, prediction: str | None = None, reference: Any = None, **kwargs: Any) -> None:
        """Adds one prediction and its reference, or its list of accepted references."""
        # The column's type is string: None stands for a failed reply, which scores like an empty one.
        super().add(prediction=prediction or "", reference=_accepted(reference), **kwargs)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Adds predictions and the reference, or list of accepted references, of each."""
        super().add_batch(
            predictions=[prediction or "" for prediction in predictions],
            references=[_accepted(reference) for reference in references],
            **kwargs,
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[list[str]], **options: Any) -> dict[str, Any]:
        if not len(predictions):
            raise ValueError("There is nothing to score: give predictions and references.")
        # The functions of `ttt-hf eval`, on records made of the texts alone.
        score = bind_scorer(self.scorer, {**self.options, **options})
        records = [
            Record(str(index), "", tuple(accepted), prediction)
            for index, (prediction, accepted) in enumerate(zip(predictions, references))
        ]
        metrics, counts = aggregate(self.scorer, [score(record) for record in records])
        name = SCORERS[self.scorer].headline
        estimate = metrics[name]
        return {
            name: estimate.value,
            f"{name}_low": estimate.low,
            f"{name}_high": estimate.high,
            "samples": estimate.n,
            # A scorer without an alignment has no counts of one.
            **{count: counts[count] for count in TEXT_COUNTS if count in counts},
        }


def metric_info(
    scorer: str, *, description: str, citation: str, reference_urls: Sequence[str], example: str
) -> evaluate.MetricInfo:
    """The metadata of a scorer's metric; `inputs_description` is filled in from its options.

    Args:
        example: Lines of a Python session, tested as a doctest, in which `metric` is this metric.
    """
    entry = SCORERS[scorer]
    # An error rate is named like its scorer; the others report accuracy.
    is_error_rate = entry.headline == scorer
    options = [
        f"    {name}: {OPTIONS[name].format(default=entry.normalizer)}"
        for name in (*entry.own_options, *TEXT_OPTIONS)
        # The rules on tokens have a normalisation of their own.
        if name != "normalizer" or is_error_rate or scorer == "same_answer"
    ]
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=INPUTS.format(
            name=entry.headline,
            one_reference="; an error rate takes exactly one" if is_error_rate else "",
            options="\n".join(options),
            counts=", ".join(TEXT_COUNTS if is_error_rate else TEXT_COUNTS[len(ALIGNMENT_COUNTS) :]),
            example="\n".join(f"    {line}" for line in example.strip().splitlines()),
        ),
        features=datasets.Features(
            {"predictions": datasets.Value("string"), "references": datasets.List(datasets.Value("string"))}
        ),
        reference_urls=list(reference_urls),
        license="Apache-2.0",
    )


def _accepted(reference: str | Sequence[str]) -> list[str]:
    if reference is None or isinstance(reference, Mapping):
        raise ValueError(f"The reference of each prediction is a text or a list of texts, and not {reference!r}.")
    # One shape for the column, whether a caller gives one reference or several.
    return [reference] if isinstance(reference, str) else list(reference)
