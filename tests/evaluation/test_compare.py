"""Two runs of a task: significant where it is, chance where it is, and refused where they cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import ScriptedJudge, ScriptedModel, write_task

from ttt_hf.evaluation.compare import compare_metric, compare_runs, comparison_text
from ttt_hf.evaluation.concepts import Judgement, Response
from ttt_hf.evaluation.folder import TaskFolder
from ttt_hf.evaluation.stages.answer import answer_task
from ttt_hf.evaluation.stages.judge import judge_task
from ttt_hf.evaluation.stages.score import score_task, task_to_score
from ttt_hf.evaluation.tasks import load_task


def make_run(place: Path, out: Path, replies: dict[str, str], limit: int | None = None, **changes: Any) -> Path:
    spec = write_task(place, **changes)
    model = ScriptedModel({key: Response(text) for key, text in replies.items()})
    folder = TaskFolder(out / "numbers")
    answer_task(load_task(spec), model, folder, loaded_from=str(spec), limit=limit)
    score_task(folder, task_to_score(folder))
    return out


def test_changes_are_shown_sample_by_sample(tmp_path: Path) -> None:
    first = make_run(tmp_path, tmp_path / "a", {"s1": "no", "s2": "no"})
    second = make_run(tmp_path, tmp_path / "b", {"s2": "no", "s3": "wrong here"})
    (comparison,) = compare_runs(first, second)
    assert comparison["n"] == 10
    metric = comparison["metrics"]["wer"]
    assert (metric["first"], metric["second"], metric["difference"]) == pytest.approx((0.2, 0.3, 0.1))
    assert not metric["significant"]
    assert [(row["id"], row["change"]) for row in comparison["samples"]] == [("s3", "worse"), ("s1", "better")]
    assert comparison["samples"][0]["texts"] == ["four", "wrong here"]
    text = comparison_text(comparison, samples=1)
    assert "wer: 20.00 -> 30.00 %, difference +10.00 [" in text and "may be chance" in text
    assert "1 samples better, 1 worse, 8 alike" in text and "s3" in text and "1 more changed" in text


def test_a_run_does_not_differ_from_itself(tmp_path: Path) -> None:
    run = make_run(tmp_path, tmp_path / "a", {"s1": "no"})
    (comparison,) = compare_runs(run, run / "numbers")
    metric = comparison["metrics"]["wer"]
    assert (metric["difference"], metric["low"], metric["high"], metric["p"]) == (0, 0, 0, 1)
    assert comparison["samples"] == [] and not metric["significant"]


def test_pairs_see_what_two_intervals_would_not() -> None:
    # One run is right where the other is, and on one sample in ten besides: far less than the spread of samples.
    rng = np.random.default_rng(1)
    first = (rng.random(200) < 0.5).astype(float)
    second = np.maximum(first, np.arange(200) % 10 == 0)
    pairs = [((one, 1.0), (other, 1.0)) for one, other in zip(first, second)]
    metric = compare_metric(pairs)
    assert metric["significant"] and 0 < metric["low"] < metric["difference"] < metric["high"]
    shuffled = [(pairs[number][0], pairs[(number + 50) % 200][1]) for number in range(200)]
    assert not compare_metric(shuffled)["significant"]


def test_direction_and_ratio_of_sums() -> None:
    # 1 of 1 and 0 of 9 errors are a rate of a tenth, not of a half.
    metric = compare_metric([((1.0, 1.0), (0.0, 1.0)), ((0.0, 9.0), (0.0, 9.0))])
    assert metric["first"] == 0.1 and metric["second"] == 0.0 and metric["difference"] == -0.1


def test_nothing_to_divide_by_is_no_difference() -> None:
    metric = compare_metric([((1.0, 0.0), (2.0, 0.0))])
    assert metric["difference"] is None and not metric["significant"]


def test_the_samples_that_both_have_are_compared(tmp_path: Path) -> None:
    first = make_run(tmp_path, tmp_path / "a", {})
    second = make_run(tmp_path, tmp_path / "b", {"s0": "no"}, limit=4)
    (comparison,) = compare_runs(first, second)
    assert (comparison["n"], comparison["n_first"], comparison["n_second"]) == (4, 10, 4)
    assert comparison["metrics"]["wer"]["second"] == 0.25


def test_tasks_that_are_not_scored_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path, tmp_path / "a", {})
    spec = write_task(tmp_path, name="others")
    answer_task(load_task(spec), ScriptedModel(), TaskFolder(run / "others"), loaded_from=str(spec))
    assert [comparison["task"] for comparison in compare_runs(run, run)] == ["numbers"]


def test_runs_without_a_common_value_are_compared_without_it(tmp_path: Path) -> None:
    spec = write_task(tmp_path, prompt="chat", scorer="openaudiobench_judge")
    unreadable = Judgement(None, "Well...", "The judge's answer is neither.")
    for name, answers in (("a", {}), ("b", {f"s{number}": unreadable for number in range(10)})):
        folder = TaskFolder(tmp_path / name / "numbers")
        answer_task(load_task(spec), ScriptedModel(), folder, loaded_from=str(spec))
        judge_task(folder, ScriptedJudge(answers))
        score_task(folder, task_to_score(folder))
    (comparison,) = compare_runs(tmp_path / "a", tmp_path / "b")
    assert (comparison["headline"], comparison["metrics"], comparison["samples"]) == (None, {}, [])
    assert comparison_text(comparison).splitlines()[1:] == ["  cannot be compared, no sample has a score in both runs"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, r"the version of the task differs \(1 and 2\): run one of them again"),
        ({"scorer": "same_answer"}, r"the scorer of the task differs \(wer and same_answer\): score both alike"),
        ({"scorer_options": {"normalizer": "verbatim"}}, "the scorer options of the task differ"),
    ],
)
def test_numbers_of_different_things_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    first = make_run(tmp_path, tmp_path / "a", {})
    second = make_run(tmp_path, tmp_path / "b", {}, **changes)
    with pytest.raises(ValueError, match=message):
        compare_runs(first, second)


def test_a_text_does_not_command_the_terminal(tmp_path: Path) -> None:
    first = make_run(tmp_path, tmp_path / "a", {})
    second = make_run(tmp_path, tmp_path / "b", {"s0": "\x1b[2J no\n  better: s1 \u202eenod"})
    text = comparison_text(compare_runs(first, second)[0])
    assert "second: \ufffd[2J no better: s1 \ufffdenod" in text and "\x1b" not in text


def test_scores_of_different_versions_are_refused(tmp_path: Path) -> None:
    first = make_run(tmp_path, tmp_path / "a", {})
    second = make_run(tmp_path, tmp_path / "b", {})
    results = json.loads((second / "numbers" / "results.json").read_text())
    results["versions"]["scoring"]["whisper-normalizer"] = "0.0.1"
    (second / "numbers" / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"different versions \(.*0\.0\.1.*\): score both again"):
        compare_runs(first, second)
    score_task(TaskFolder(second / "numbers"), load_task(tmp_path / "numbers.yaml"))
    assert compare_runs(first, second)


def test_runs_without_a_common_task_are_refused(tmp_path: Path) -> None:
    first = make_run(tmp_path, tmp_path / "a", {})
    spec = write_task(tmp_path, name="others")
    answer_task(load_task(spec), ScriptedModel(), TaskFolder(tmp_path / "b" / "others"), loaded_from=str(spec))
    with pytest.raises(ValueError, match=r"\(numbers\) and .* \(others\) have no task in common"):
        compare_runs(first, tmp_path / "b")


def test_a_run_without_results_is_said(tmp_path: Path) -> None:
    first = make_run(tmp_path, tmp_path / "a", {})
    answer_task(load_task(tmp_path / "numbers.yaml"), ScriptedModel(), TaskFolder(tmp_path / "b" / "numbers"))
    with pytest.raises(FileNotFoundError, match="has no results yet"):
        compare_runs(first, tmp_path / "b")
