"""Word error rate, as a metric of the library `evaluate`."""

import evaluate

from ttt_hf.evaluation.scoring import evaluate_metric


_DESCRIPTION = """\
Word error rate (WER): substituted, deleted and inserted words over the words of the references, summed over the corpus
before they are divided. 0 is perfect; insertions can bring it above 1. Texts are normalised first, by default with
Whisper's rules for English; with normalizer="verbatim" it equals the metric `wer` of evaluate.
"""

_CITATION = """\
@inproceedings{morris2004,
    author = {Morris, Andrew and Maier, Viktoria and Green, Phil},
    title = {From {WER} and {RIL} to {MER} and {WIL}: improved evaluation measures for connected speech recognition},
    booktitle = {Interspeech},
    year = {2004}
}
@inproceedings{radford2023,
    author = {Radford, Alec and Kim, Jong Wook and Xu, Tao and Brockman, Greg and McLeavey, Christine and
        Sutskever, Ilya},
    title = {Robust Speech Recognition via Large-Scale Weak Supervision},
    booktitle = {International Conference on Machine Learning},
    year = {2023}
}
"""

_EXAMPLE = """
>>> result = metric.compute(predictions=["Good mourning!", "twenty one"], references=["good morning", "21"])
>>> round(result["wer"], 4), result["substitutions"]
(0.3333, 1)
"""


class Wer(evaluate_metric.ScorerMetric):
    """Word error rate."""

    scorer = "wer"

    def _info(self) -> evaluate.MetricInfo:
        return evaluate_metric.metric_info(
            self.scorer,
            description=_DESCRIPTION,
            citation=_CITATION,
            reference_urls=["https://en.wikipedia.org/wiki/Word_error_rate", "https://github.com/jitsi/jiwer"],
            example=_EXAMPLE,
        )
