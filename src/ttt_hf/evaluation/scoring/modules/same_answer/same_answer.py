"""Exact match after normalisation, as a metric of the library `evaluate`."""

import evaluate

from ttt_hf.evaluation.scoring import evaluate_metric


_DESCRIPTION = """\
Share of replies that equal one of their references after normalisation, by default with Whisper's rules for English:
case, punctuation and the spelling of numbers do not count. An empty reply is never right.
"""

_CITATION = """\
@inproceedings{rajpurkar2016,
    author = {Rajpurkar, Pranav and Zhang, Jian and Lopyrev, Konstantin and Liang, Percy},
    title = {{SQuAD}: 100,000+ Questions for Machine Comprehension of Text},
    booktitle = {EMNLP},
    year = {2016}
}
"""

_EXAMPLE = """
>>> references = ["It is 12.", ["Paris", "City of Light"]]
>>> metric.compute(predictions=["It is twelve!", "Parish"], references=references)["accuracy"]
0.5
"""


class SameAnswer(evaluate_metric.ScorerMetric):
    """Exact match after normalisation."""

    scorer = "same_answer"

    def _info(self) -> evaluate.MetricInfo:
        return evaluate_metric.metric_info(
            self.scorer,
            description=_DESCRIPTION,
            citation=_CITATION,
            reference_urls=["https://aclanthology.org/D16-1264/"],
            example=_EXAMPLE,
        )
