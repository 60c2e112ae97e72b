"""Character error rate, as a metric of the library `evaluate`."""

import evaluate

from ttt_hf.evaluation.scoring import evaluate_metric


_DESCRIPTION = """\
Character error rate (CER): substituted, deleted and inserted characters over the characters of the references, summed
over the corpus before they are divided. Texts are normalised first, by default as Chinese with numbers spelled as
cardinals. Spaces between words are characters, except with the Chinese normalisers; with normalizer="verbatim" it
equals the metric `cer` of evaluate.
"""

_CITATION = """\
@inproceedings{morris2004,
    author = {Morris, Andrew and Maier, Viktoria and Green, Phil},
    title = {From {WER} and {RIL} to {MER} and {WIL}: improved evaluation measures for connected speech recognition},
    booktitle = {Interspeech},
    year = {2004}
}
"""

_EXAMPLE = """
>>> result = metric.compute(predictions=["今天天气很好", "打10086"], references=["今天 天气好。", "打一万零八十六"])
>>> round(result["cer"], 4), result["insertions"]
(0.0833, 1)
"""


class Cer(evaluate_metric.ScorerMetric):
    """Character error rate."""

    scorer = "cer"

    def _info(self) -> evaluate.MetricInfo:
        return evaluate_metric.metric_info(
            self.scorer,
            description=_DESCRIPTION,
            citation=_CITATION,
            reference_urls=["https://en.wikipedia.org/wiki/Word_error_rate", "https://github.com/jitsi/jiwer"],
            example=_EXAMPLE,
        )
