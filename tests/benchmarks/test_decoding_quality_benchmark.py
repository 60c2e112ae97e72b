"""The benchmark of decoding settings: what it counts, and how it compares and shows it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ttt_hf.evaluation.concepts import Sample
from ttt_hf.evaluation.models import load_model
from ttt_hf.evaluation.tasks import load_task


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as where a script is run
    import decoding_quality

    yield decoding_quality
    sys.path.remove(str(ROOT / "benchmarks"))


def answered(setting: object, forwards: float, errors: list[int]) -> dict:
    names = ["wording_answers/1", "wording_answers/2", "read_aloud/1", "read_aloud/2"]
    samples = {name: [float(value), 10.0] for name, value in zip(names, errors, strict=True)}
    return {"setting": setting, "forwards": forwards, "samples": samples}


@pytest.fixture
def report(benchmark: ModuleType) -> dict:
    runs = [
        answered({"steps": 16, "bound": 0.0, "threshold": 0.9}, 9.96, [0, 1, 2, 1]),
        answered({"steps": 8, "bound": 4.5, "threshold": 1.0}, 3.04, [1, 1, 3, 1]),
    ]
    return {"settings": benchmark.compare(runs), "replies": 4, "seeds": 3, "command": "python it.py"}


def test_forwards_of_text_are_not_counted(benchmark: ModuleType) -> None:
    plain = load_model("ttt-tiny", max_new_tokens=40)
    # One step a block, and blocks as long as spans: a span is one forward.
    generation = {**benchmark.Setting(1).keys, "max_new_tokens": 40, "audio_max_span_length": 8}
    counter = benchmark.SpanCounter(plain.model, plain.processor, plain.identity, generation)
    task, sample = load_task("tiny_read_aloud"), Sample("one", None, 16000, "The cat sat.", ("The cat sat.",))
    with_text = type(plain)(plain.model, plain.processor, plain.identity, generation).respond([sample], task)[0]
    (response,) = counter.respond([sample], task)
    assert response.codes == with_text.codes
    # Spans of at most 7 codes and an end marker.
    assert response.forward_passes == -(-len(response.codes) // 7) > 0
    assert response.forward_passes < with_text.forward_passes


def test_settings_are_compared_with_the_first_on_the_same_samples(benchmark: ModuleType, report: dict) -> None:
    first, second = report["settings"]
    assert first["both"]["difference"] == 0
    assert second["word_error"] == {"wording_answers": 0.1, "read_aloud": 0.2}
    assert second["both"]["difference"] == pytest.approx(0.05)
    assert 0 <= second["both"]["low"] < 0.05 < second["both"]["high"]
    row = benchmark.table(report).splitlines()[3]
    assert row.startswith("| 8 | bound 4.5 | **3.0** | 10.0 % | 20.0 % | **15.0 %** | +5.0 (+")


def test_the_plot_is_a_small_file_that_depends_on_the_measurements_alone(
    benchmark: ModuleType, report: dict, tmp_path: Path
) -> None:
    for name in ("one.svg", "two.svg"):
        benchmark.draw(report, tmp_path / name)
    one, two = ((tmp_path / name).read_text(encoding="utf-8") for name in ("one.svg", "two.svg"))
    assert one == two
    assert len(one) < 60_000
    assert ">8 steps, bound 4.5<" in one
    other = {**report, "settings": report["settings"][:1]}
    benchmark.draw(other, tmp_path / "one.svg")
    assert ">8 steps, bound 4.5<" not in (tmp_path / "one.svg").read_text(encoding="utf-8")
