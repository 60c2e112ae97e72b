"""The example of metrics in a stock trainer, run as its docstring says."""

import ast
import math
import runpy
import sys
from pathlib import Path

import pytest


pytest.importorskip("evaluate")
pytest.importorskip("jiwer")
pytest.importorskip("whisper_normalizer")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "trainer_metrics.py"


@pytest.mark.slow
def test_error_rates_fall_during_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--steps", "100"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    *logged, printed = capsys.readouterr().out.splitlines()
    evaluations = [ast.literal_eval(line) for line in logged if "eval_wer" in line]
    assert len(evaluations) == 3, "halfway, at the end, and by evaluate()"
    halfway, end, again = ({key: float(entry[f"eval_{key}"]) for key in ("wer", "cer")} for entry in evaluations)
    assert 0 < halfway["wer"] < 1 and 0 < halfway["cer"] < 1
    assert end == again and end["wer"] < halfway["wer"]
    assert printed.startswith(f"word error rate {math.floor(1000 * end['wer'] + 0.5) / 10:.1f}% (")
