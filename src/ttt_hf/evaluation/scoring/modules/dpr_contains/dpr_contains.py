"""Answers contained in replies, as a metric of the library `evaluate`."""

import evaluate

from ttt_hf.evaluation.scoring import evaluate_metric


_DESCRIPTION = """\
Share of replies that contain one of their references as a contiguous run of tokens. Tokens are those of Dense Passage
Retrieval, compared in lower case, so that "Oman" is not found in "woman".
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
>>> metric.compute(predictions=["It is Oman.", "A woman."], references=["Oman", ["Oman", "Muscat"]])["accuracy"]
0.5
"""


class DprContains(evaluate_metric.ScorerMetric):
    """Share of replies that contain an answer."""

    scorer = "dpr_contains"

    def _info(self) -> evaluate.MetricInfo:
        return evaluate_metric.metric_info(
            self.scorer,
            description=_DESCRIPTION,
            citation=_CITATION,
            reference_urls=["https://aclanthology.org/2020.emnlp-main.550/"],
            example=_EXAMPLE,
        )
