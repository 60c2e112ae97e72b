"""Mixed error rate, as a metric of the library `evaluate`."""

import evaluate

from ttt_hf.evaluation.scoring import evaluate_metric


_DESCRIPTION = """\
Mixed error rate (MER) for speech that switches between Chinese and English: errors are counted by character in Chinese
and Japanese, by word in everything else, summed over the corpus before they are divided. Texts are normalised first,
by default as Chinese with numbers spelled as cardinals. Not to be confused with the match error rate.
"""

_CITATION = """\
@inproceedings{vu2012,
    author = {Vu, Ngoc Thang and Lyu, Dau-Cheng and Weiner, Jochen and Telaar, Dominic and Schlippe, Tim and Blaicher,
        Fabian and Chng, Eng-Siong and Schultz, Tanja and Li, Haizhou},
    title = {A first speech recognition system for {Mandarin-English} code-switch conversational speech},
    booktitle = {ICASSP},
    year = {2012}
}
"""

_EXAMPLE = """
>>> result = metric.compute(predictions=["我用 Python 写了二十三行"], references=["我用python写23行"])
>>> round(result["mer"], 4), result["insertions"]
(0.125, 1)
"""


class Mer(evaluate_metric.ScorerMetric):
    """Mixed error rate."""

    scorer = "mer"

    def _info(self) -> evaluate.MetricInfo:
        return evaluate_metric.metric_info(
            self.scorer,
            description=_DESCRIPTION,
            citation=_CITATION,
            reference_urls=["https://doi.org/10.1109/ICASSP.2012.6289015", "https://github.com/jitsi/jiwer"],
            example=_EXAMPLE,
        )
