"""Right choices, as a metric of the library `evaluate`."""

import evaluate

from ttt_hf.evaluation.scoring import evaluate_metric


_DESCRIPTION = """\
Share of replies that name the right one of a closed set of choices, and no other. Choices are found as contiguous runs
of the tokens of Dense Passage Retrieval, compared in lower case; one within a longer choice does not count.
"""

_CITATION = """\
@inproceedings{karpukhin2020,
    author = {Karpukhin, Vladimir and Oguz, Barlas and Min, Sewon and Lewis, Patrick and Wu, Ledell and
        Edunov, Sergey and Chen, Danqi and Yih, Wen-tau},
    title = {Dense Passage Retrieval for Open-Domain Question Answering},
    booktitle = {EMNLP},
    year = {2020}
}
"""

_EXAMPLE = """
>>> choices = ["dog", "dog barking", "cat"]
>>> metric.compute(predictions=["A dog barking.", "A dog."], references=["dog", "dog"], choices=choices)["accuracy"]
0.5
"""


class Choice(evaluate_metric.ScorerMetric):
    """Share of replies that name the right choice and no other."""

    scorer = "choice"

    def _info(self) -> evaluate.MetricInfo:
        return evaluate_metric.metric_info(
            self.scorer,
            description=_DESCRIPTION,
            citation=_CITATION,
            reference_urls=["https://aclanthology.org/2020.emnlp-main.550/"],
            example=_EXAMPLE,
        )
