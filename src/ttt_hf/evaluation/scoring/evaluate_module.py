"""The scorers as metrics of their own, for texts that come from anywhere: `compute(predictions=..., references=...)`.

    from ttt_hf.evaluation.scoring.evaluate_module import Metric

    Metric("wer").compute(predictions=["Good mourning."], references=["good morning"])
    # {'wer': 50.0, 'wer_low': 50.0, 'wer_high': 50.0, 'hits': 1, 'substitutions': 1, ...}

They are used like the modules of the library `evaluate`, which is not needed: samples may be added one by one or in
batches, and are forgotten when the metric is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..concepts import Record
from .metrics import bootstrap_interval
from .scorers import SCORERS, bind_scorer, scorer_versions


class Metric:
    """One scorer over a list of texts.

    Args:
        name: One of `SCORERS` that needs no judge.
        options: The scorer's options, such as `normalizer`.

    Raises:
        ValueError: There is no such scorer or option, or it needs a judge.
        ModuleNotFoundError: The normaliser's package is not installed.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self._score = bind_scorer(name, options)
        if SCORERS[name].needs_judge:
            raise ValueError(f"The scorer {name!r} needs a judge: run `ttt-hf eval run` with a task that names it.")
        self.name = name
        self.options = options
        self._records: list[Record] = []

    @property
    def description(self) -> dict[str, Any]:
        """What has to be told with the numbers: scorer, options and versions."""
        return {"scorer": self.name, "options": self.options, "versions": scorer_versions()}

    def add(self, *, prediction: str, references: str | Sequence[str]) -> None:
        """Adds a sample.

        Args:
            prediction: What was said; empty where nothing was, which counts as wrong.
            references: The accepted answer or answers.
        """
        accepted = (references,) if isinstance(references, str) else tuple(references)
        self._records.append(Record(str(len(self._records)), "", accepted, prediction))

    def add_batch(self, *, predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> None:
        """Adds samples.

        Args:
            predictions: What was said.
            references: The accepted answer or answers to each.

        Raises:
            ValueError: If there is not one reference entry for each prediction.
        """
        if len(predictions) != len(references):
            raise ValueError(
                f"There are {len(predictions)} predictions and {len(references)} references: give one to each, and an "
                "empty text for what failed."
            )
        for prediction, accepted in zip(predictions, references):
            self.add(prediction=prediction, references=accepted)

    def compute(
        self, *, predictions: Sequence[str] = (), references: Sequence[str | Sequence[str]] = ()
    ) -> dict[str, float | int]:
        """Scores everything that was added, and these, and forgets it.

        Args:
            predictions, references: See `add_batch`.

        Returns:
            The metric in its unit (percent), `_low` and `_high` of its 95 % interval, the counts of the scorer, and
            `samples`.

        Raises:
            ValueError: If there is no sample, or one does not fit the scorer.
        """
        self.add_batch(predictions=predictions, references=references)
        records, self._records = self._records, []
        if not records:
            raise ValueError("There is nothing to score: give predictions and references.")
        scores = [self._score(record) for record in records]
        counts: Counter[str] = Counter()
        for score in scores:
            counts.update(score.counts)
        return {**self._values([score.values for score in scores]), **counts, "samples": len(scores)}

    def _values(self, values: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
        entry = SCORERS[self.name]
        name, scale = entry.headline, entry.metrics[entry.headline].scale
        pairs = [value[name] for value in values]
        numerator, denominator = (sum(column) for column in zip(*pairs))
        low, high = bootstrap_interval(pairs)
        ratio = numerator / denominator if denominator else float("nan")
        return {name: scale * ratio, f"{name}_low": scale * low, f"{name}_high": scale * high}
