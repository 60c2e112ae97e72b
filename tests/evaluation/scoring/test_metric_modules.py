"""The scorers as metrics of the library `evaluate`: its interface, its numbers, and the harness's."""

from __future__ import annotations

import doctest
import json
import os
import random
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


pytest.importorskip("jiwer")
pytest.importorskip("whisper_normalizer")
pytest.importorskip("evaluate")

import evaluate
import jiwer
from huggingface_hub import SpaceCard

from recorded_run import Answer, write_recognition
from ttt_hf.evaluation import load_metric, write_metric_space
from ttt_hf.evaluation.scoring.metric_modules import MODULES, metric_folder
from ttt_hf.evaluation.scoring.scorers import SCORERS


NAMES = [name for name, entry in SCORERS.items() if not entry.needs_judge]
PREDICTIONS = ["Good mourning, my friend.", "", "twenty one"]
REFERENCES = ["good morning my friend", "are you there", "21"]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the cache of `evaluate` out of the home folder."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path_factory.getbasetemp() / "metrics")


def test_every_scorer_without_a_judge_is_a_module() -> None:
    assert {path.stem for path in MODULES.glob("*/*.py")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_module_is_loaded_by_its_folder_and_says_what_it_is(name: str) -> None:
    metric = evaluate.load(str(metric_folder(name)))
    assert isinstance(metric, evaluate.Metric) and metric.name == name
    assert len(metric.description) > 100 and metric.citation.startswith("@") and metric.reference_urls
    assert set(metric.features) == {"predictions", "references"}
    assert SCORERS[name].headline in metric.inputs_description and metric.inputs_description in metric.compute.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_its_example_is_true(name: str) -> None:
    metric = load_metric(name)
    example = doctest.DocTestParser().get_doctest(metric.inputs_description, {"metric": metric}, name, None, 0)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.slow
def test_loading_and_computing_opens_no_connection(tmp_path: Path) -> None:
    script = (
        "import socket, sys\n"
        "def refuse(*arguments): raise SystemExit(f'tried to connect: {arguments}')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        "import evaluate\n"
        "for folder in sys.argv[1:]:\n"
        "    print(evaluate.load(folder).compute(predictions=['a b'], references=['a c'])['samples'])"
    )
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    result = subprocess.run(
        [sys.executable, "-c", script, *(str(metric_folder(name)) for name in ("wer", "dpr_contains"))],
        env={**environment, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "1\n1\n"), result.stderr


# -- numbers ----------------------------------------------------------------------------------------------------------


def random_texts(seed: int, alphabet: list[str]) -> tuple[list[str], list[str]]:
    """Predictions, empty ones among them, and references."""
    draw = random.Random(seed)
    references = [" ".join(draw.choices(alphabet, k=draw.randint(1, 9))) for _ in range(40)]
    predictions = [
        "" if draw.random() < 0.1 else " ".join(word for word in text.split() if draw.random() < 0.8)
        for text in references
    ]
    return [text.replace("a", "o", 1) for text in predictions], references


@pytest.mark.parametrize("alphabet", [["a", "Bird", "sings,", "in", "trees."], ["今天", "天气", "很好。", "wifi"]])
@pytest.mark.parametrize(("name", "align"), [("wer", jiwer.process_words), ("cer", jiwer.process_characters)])
def test_verbatim_rates_equal_those_of_evaluate(name: str, align: Any, alphabet: list[str]) -> None:
    """`evaluate` keeps its own modules on the Hub: `wer` and `cer` sum up what jiwer counts, pair by pair."""
    predictions, references = random_texts(1, alphabet)
    result = load_metric(name, normalizer="verbatim").compute(predictions=predictions, references=references)
    pairs = [align(reference, prediction) for reference, prediction in zip(references, predictions)]
    errors = sum(pair.substitutions + pair.deletions + pair.insertions for pair in pairs)
    assert result[name] == errors / sum(pair.substitutions + pair.deletions + pair.hits for pair in pairs)
    assert result[name] == pytest.approx(getattr(jiwer, name)(references, predictions))


def test_values_are_those_of_the_harness(tmp_path: Path) -> None:
    answers = [Answer(f"s{place}", *pair) for place, pair in enumerate(zip(REFERENCES, PREDICTIONS))]
    results = write_recognition(tmp_path / "reading", answers)
    scores = load_metric("wer").compute(predictions=PREDICTIONS, references=REFERENCES)
    stored = results["metrics"]["wer"]
    assert [scores["wer"], scores["wer_low"], scores["wer_high"]] == [stored[key] for key in ("value", "low", "high")]
    assert scores["wer"] == 0.5 and scores["samples"] == stored["n"] == 3
    for count in ("hits", "substitutions", "deletions", "insertions", "empty", "repetitions"):
        assert scores[count] == results["counts"][count]


# -- interface --------------------------------------------------------------------------------------------------------


def test_samples_may_be_added_one_by_one_with_one_reference_or_several() -> None:
    metric = load_metric("dpr_contains")
    metric.add(prediction="It is Oman.", reference="Oman")
    metric.add(prediction="Muscat it is.", reference=["Oman", "Muscat"])
    metric.add_batch(predictions=["A woman.", None], references=[["Oman", "Muscat"], "Oman"])
    result = metric.compute()
    assert (result["accuracy"], result["samples"], result["empty"]) == (0.5, 4, 1)
    assert metric.compute(predictions=["Oman"], references=["Oman"])["accuracy"] == 1.0


def test_options_are_given_to_load_or_to_compute() -> None:
    texts = {"predictions": ["Hello!"], "references": ["hello"]}
    assert load_metric("wer").compute(**texts)["wer"] == 0.0
    assert load_metric("wer", normalizer="verbatim").compute(**texts)["wer"] == 1.0
    assert load_metric("wer").compute(**texts, normalizer="verbatim")["wer"] == 1.0
    choices = ["dog", "cat"]
    result = load_metric("choice", choices=choices).compute(predictions=["a dog"], references=["dog"])
    assert result["accuracy"] == 1.0


def test_metrics_are_combined_and_saved(tmp_path: Path) -> None:
    combined = evaluate.combine([load_metric("wer", normalizer="verbatim"), load_metric("cer", normalizer="verbatim")])
    combined.add_batch(predictions=["good night"], references=["good morning"])
    result = combined.compute()
    assert result["wer"] == 0.5 and result["cer"] == jiwer.cer("good morning", "good night")
    assert result["wer_substitutions"] == 1
    path = evaluate.save(tmp_path, **result, model="some/model")
    assert json.loads(Path(path).read_text())["wer"] == 0.5


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("clair_a", {}, "'clair_a' needs a judge"),
        ("bleu", {}, "no scorer 'bleu'"),
        ("wer", {"normaliser": "verbatim"}, "no option 'normaliser': it has normalizer, special_tokens"),
        ("wer", {"normalizer": "whisper"}, "no normaliser 'whisper'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_scored(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_metric(name, **options)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({"predictions": ["one"], "references": ["one", "two"]}, "Mismatch in the number of predictions"),
        ({"predictions": [], "references": []}, "nothing to score"),
        ({"predictions": ["one"], "references": [None]}, "is a text or a list of texts, and not None"),
        ({"predictions": ["one"], "references": [["one", "two"]]}, "needs one reference, and sample 0 has 2"),
    ],
)
def test_texts_that_cannot_be_scored_are_refused(texts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_metric("wer").compute(**texts)


# -- Spaces -----------------------------------------------------------------------------------------------------------


def test_a_metric_is_written_as_a_space(tmp_path: Path) -> None:
    space = write_metric_space("wer", tmp_path / "speech_wer")
    assert {path.name for path in space.iterdir()} == {"README.md", "app.py", "requirements.txt", "speech_wer.py"}
    card = SpaceCard.load(space / "README.md")
    assert (card.data.sdk, card.data.app_file, card.data.tags) == ("gradio", "app.py", ["evaluate", "metric"])
    assert card.data.to_dict()["description"].startswith("Word error rate")
    assert 'evaluate.load("your-name/speech_wer")' in card.text
    metric = evaluate.load(str(space))
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES)["wer"] == 0.5
    with pytest.raises(FileExistsError, match="name a new folder"):
        write_metric_space("wer", space)


def test_the_demo_of_a_space_scores(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the demo of a Space runs with gradio")
    space = write_metric_space("choice", tmp_path / "choice")
    app = runpy.run_path(str(space / "app.py"))
    scores = app["score"]("It is a dog.", "dog\nhound", '{"choices": ["dog", "hound", "cat"]}')
    assert scores["accuracy"] == 1.0
    assert app["demo"].title == "choice"
