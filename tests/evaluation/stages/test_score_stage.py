"""From replies to results: transcripts and judgements are made once each, and nothing leaves the denominator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedJudge, ScriptedModel, ScriptedTranscriber, make_task, tone, write_task

from ttt_hf.evaluation.concepts import Judgement, Response
from ttt_hf.evaluation.folder import TaskFolder, task_folders
from ttt_hf.evaluation.scoring.metrics import total_word_errors
from ttt_hf.evaluation.stages.answer import answer_task
from ttt_hf.evaluation.stages.judge import judge_task
from ttt_hf.evaluation.stages.score import score_task, task_to_score
from ttt_hf.evaluation.stages.transcribe import transcribe_task
from ttt_hf.evaluation.store import latest_lines
from ttt_hf.evaluation.tasks import load_task


SPEECH = {"prompt": "chat", "output": "speech", "scorer": "same_answer"}
JUDGED = {"scorer": "openaudiobench_judge", "judge": {"prompt": "openaudiobench_verdict"}}


@pytest.fixture
def folder(tmp_path: Path) -> TaskFolder:
    return TaskFolder(tmp_path / "out" / "numbers")


def run(folder: TaskFolder, place: Path, model: ScriptedModel | None = None, **changes: Any) -> dict[str, Any]:
    spec = write_task(place, **changes)
    limit = changes.pop("limit", None)
    answer_task(load_task(spec), model or ScriptedModel(), folder, loaded_from=str(spec), limit=limit)
    return score_task(folder, task_to_score(folder))


def test_results_say_everything(tmp_path: Path, folder: TaskFolder) -> None:
    replies = {
        "s0": Response("", finish_reason="error", error="No memory.", seconds=1.0),
        "s1": Response("  "),
        "s2": Response("three and " * 8, finish_reason="length"),
        "s3": Response("five"),
    }
    results = run(folder, tmp_path, ScriptedModel(replies))
    assert results == json.loads(folder.results.read_text())
    assert (results["n_expected"], results["n_scored"]) == (10, 10)
    assert (results["n_failed"], results["n_empty"], results["n_truncated"], results["n_repetition"]) == (1, 1, 1, 1)
    counts = results["counts"]
    # "one" and "two" are missing, "three and" has 15 words too many, "four" is "five"; six are right.
    assert [counts[name] for name in ("hits", "substitutions", "deletions", "insertions")] == [7, 1, 2, 15]
    metric = results["metrics"]["wer"]
    texts = [(row["references"][0], row["text"]) for row in folder.replies()]
    assert metric["value"] == total_word_errors(texts).rate == 1.8
    assert metric["low"] < 1.8 < metric["high"] and metric["higher_is_better"] is False
    assert metric["unit"] == "fraction" and metric["n"] == 10
    assert results["headline"] == "wer" and results["limited"] is None
    assert results["schema_version"] == 2
    assert results["task"]["dataset"]["path"] == "data.jsonl"
    speed = results["speed"]
    assert speed["seconds"] == 2.5 and speed["forward_passes"] == 12
    audio = sum(0.2 + 0.1 * number for number in range(10))
    assert speed["real_time_factor"] == pytest.approx(2.5 / audio, abs=1e-3)
    assert speed["forward_passes_per_audio_second"] == pytest.approx(12 / audio, abs=1e-3)


def test_no_headline_where_a_limit_cut_the_set(tmp_path: Path, folder: TaskFolder) -> None:
    spec = write_task(tmp_path)
    answer_task(load_task(spec), ScriptedModel(), folder, loaded_from=str(spec), limit=9)
    results = score_task(folder, task_to_score(folder))
    assert results["headline"] is None
    assert results["limited"] == {"n": 9, "of": 10, "note": "first 9 of 10: not the benchmark's number"}
    assert (results["n_scored"], results["n_expected"]) == (9, 10)
    answer_task(load_task(spec), ScriptedModel(), folder, loaded_from=str(spec), limit=10)
    assert score_task(folder, task_to_score(folder))["headline"] == "wer"


def test_no_headline_where_samples_are_not_answered_yet(tmp_path: Path, folder: TaskFolder) -> None:
    spec = write_task(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        answer_task(load_task(spec), ScriptedModel(stop_after=1), folder, loaded_from=str(spec), batch_size=4)
    results = score_task(folder, task_to_score(folder))
    assert results["headline"] is None and (results["n_scored"], results["n_expected"]) == (4, 10)


def test_nothing_answered_is_said(tmp_path: Path, folder: TaskFolder) -> None:
    path = tmp_path / "numbers.yaml"
    with pytest.raises(KeyboardInterrupt):
        answer_task(make_task(tmp_path), ScriptedModel(stop_after=0), folder, loaded_from=str(path))
    with pytest.raises(ValueError, match="has no replies yet"):
        score_task(folder, task_to_score(folder))


def test_another_scorer_needs_no_model(tmp_path: Path, folder: TaskFolder) -> None:
    first = run(folder, tmp_path)
    before = folder.predictions.read_bytes()
    second = score_task(folder, task_to_score(folder, {"scorer": "dpr_contains"}))
    assert first["headline"] == "wer" and second["headline"] == "accuracy"
    assert second["metrics"]["accuracy"]["value"] == 1.0
    assert folder.predictions.read_bytes() == before
    # The task's file counts, too.
    write_task(tmp_path, scorer="same_answer")
    assert score_task(folder, task_to_score(folder))["task"]["scorer"] == "same_answer"


def test_options_of_a_scorer_may_change_and_nothing_else(tmp_path: Path, folder: TaskFolder) -> None:
    run(folder, tmp_path, ScriptedModel({"s0": Response("One!")}))
    results = score_task(folder, task_to_score(folder, {"scorer_options.normalizer": "verbatim"}))
    assert results["metrics"]["wer"]["value"] == 0.1
    with pytest.raises(ValueError, match=r"prompt cannot be changed after the model was asked"):
        task_to_score(folder, {"prompt": "chat"})


def test_a_new_version_of_the_task_is_not_scored_with_old_replies(tmp_path: Path, folder: TaskFolder) -> None:
    run(folder, tmp_path)
    write_task(tmp_path, version=2)
    with pytest.raises(ValueError, match=r"holds replies to version 1 of task numbers, and this is version 2"):
        task_to_score(folder)


def test_a_run_is_scored_where_its_task_file_is_gone(tmp_path: Path, folder: TaskFolder) -> None:
    first = run(folder, tmp_path)
    (tmp_path / "numbers.yaml").unlink()
    assert score_task(folder, task_to_score(folder)) == first
    with pytest.raises(FileNotFoundError, match=r"numbers\.yaml"):
        task_to_score(folder, {"scorer": "cer"})


# -- speech -----------------------------------------------------------------------------------------------------------


def answer_in_speech(folder: TaskFolder, place: Path, model: ScriptedModel | None = None, **changes: Any) -> None:
    spec = write_task(place, **{**SPEECH, **changes})
    answer_task(load_task(spec), model or ScriptedModel(speaks=True), folder, loaded_from=str(spec))


def test_speech_that_was_not_transcribed_is_no_silence(tmp_path: Path, folder: TaskFolder) -> None:
    answer_in_speech(folder, tmp_path)
    with pytest.raises(ValueError, match=r"10 of 10 replies in .* are not transcribed yet: run `ttt-hf eval transcri"):
        score_task(folder, task_to_score(folder))


def test_text_and_transcript_are_scored_side_by_side(tmp_path: Path, folder: TaskFolder) -> None:
    silent = {"s4": Response("five"), "s5": Response("", finish_reason="error", error="No memory.")}
    answer_in_speech(folder, tmp_path, ScriptedModel(silent, speaks=True))
    transcriber = ScriptedTranscriber("one")
    transcribe_task(folder, transcriber)
    assert transcriber.heard == 8
    results = score_task(folder, task_to_score(folder))
    assert results["headline"] == "accuracy_speech"
    assert results["metrics"]["accuracy_text"]["value"] == 0.9
    assert results["metrics"]["accuracy_speech"]["value"] == 0.1
    assert results["metrics"]["wer_speech_vs_text"]["value"] == 0.9
    assert results["transcriber"] == transcriber.description
    assert results["speed"]["audio_seconds"] == pytest.approx(8 * 0.7)


def test_transcribing_goes_on_where_it_stopped(tmp_path: Path, folder: TaskFolder) -> None:
    answer_in_speech(folder, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        transcribe_task(folder, ScriptedTranscriber(stop_after=9))
    second = ScriptedTranscriber()
    transcribe_task(folder, second)
    assert 1 <= second.heard < 10
    assert len(latest_lines(folder.transcripts)) == 10
    again = ScriptedTranscriber()
    transcribe_task(folder, again)
    assert again.heard == 0
    other = ScriptedTranscriber("two")
    transcribe_task(folder, other)
    assert other.heard == 10


def test_only_what_is_said_anew_is_transcribed_anew(tmp_path: Path, folder: TaskFolder) -> None:
    failed = {"s7": Response("", finish_reason="error", error="The server is down.")}
    answer_in_speech(folder, tmp_path, ScriptedModel(failed, speaks=True))
    transcribe_task(folder, ScriptedTranscriber())
    answer_in_speech(folder, tmp_path)
    transcriber = ScriptedTranscriber()
    transcribe_task(folder, transcriber)
    assert transcriber.heard == 1


@pytest.mark.parametrize(("damage", "error"), [("missing", FileNotFoundError), ("damaged", ValueError)])
def test_speech_that_is_missing_is_named(
    tmp_path: Path, folder: TaskFolder, damage: str, error: type[Exception]
) -> None:
    answer_in_speech(folder, tmp_path)
    path = folder.path / folder.replies()[2]["audio"]
    path.unlink() if damage == "missing" else path.write_bytes(b"fLaC" + b"0" * 100)
    with pytest.raises(error, match=rf"s2\.flac, the speech of a reply, is {damage}"):
        transcribe_task(folder, ScriptedTranscriber())


# -- judge ------------------------------------------------------------------------------------------------------------


def test_a_judge_is_asked_once_and_its_answers_are_kept(tmp_path: Path, folder: TaskFolder) -> None:
    spec = write_task(tmp_path, **JUDGED)
    answer_task(load_task(spec), ScriptedModel(), folder, loaded_from=str(spec))
    with pytest.raises(ValueError, match=r"have not been judged, .* run `ttt-hf eval judge .*; the replies are kept"):
        score_task(folder, task_to_score(folder))
    with pytest.raises(ConnectionError):
        judge_task(folder, ScriptedJudge(stop_after=4))
    assert len(latest_lines(folder.judgements)) == 4
    second = ScriptedJudge({"s9": Judgement(0.0, "incorrect", None, 20, 1)})
    judge_task(folder, second)
    assert second.asked == 6
    results = score_task(folder, task_to_score(folder))
    assert results["headline"] == "score" and results["metrics"]["score"]["value"] == 0.9
    assert results["judge"] == {"model": "scripted"}
    assert results["judge_cost"] == {"judgements": 10, "prompt_tokens": 200, "completion_tokens": 10, "price": None}


def test_an_unreadable_judgement_is_no_score_and_asked_for_again(tmp_path: Path, folder: TaskFolder) -> None:
    spec = write_task(tmp_path, **JUDGED)
    answer_task(load_task(spec), ScriptedModel(), folder, loaded_from=str(spec))
    judge_task(folder, ScriptedJudge({"s1": Judgement(None, "Well...", "The judge's answer is neither.")}))
    results = score_task(folder, task_to_score(folder))
    assert results["headline"] is None and results["n_scored"] == 9 and results["counts"]["judge_errors"] == 1
    judge = ScriptedJudge()
    judge_task(folder, judge)
    assert judge.asked == 1
    assert score_task(folder, task_to_score(folder))["headline"] == "score"


def test_a_changed_reply_is_judged_anew(tmp_path: Path, folder: TaskFolder) -> None:
    spec = write_task(tmp_path, **JUDGED)
    answer_task(load_task(spec), ScriptedModel(), folder, loaded_from=str(spec))
    judge_task(folder, ScriptedJudge())
    answer_task(load_task(spec), ScriptedModel({"s3": Response("many")}, name="other"), folder, loaded_from=str(spec))
    judge = ScriptedJudge()
    judge_task(folder, judge)
    assert judge.asked == 1


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_without_evaluations_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no evaluation"):
        task_folders(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"lacks settings\.json"):
        TaskFolder(tmp_path).read_settings()


def test_files_of_another_schema_are_refused(tmp_path: Path, folder: TaskFolder) -> None:
    run(folder, tmp_path)
    folder.results.write_text('{"schema_version": 99}')
    with pytest.raises(ValueError, match=r"has schema_version 99, and this version of ttt-hf reads 2"):
        folder.read_results()
    folder.results.write_text("{half")
    with pytest.raises(ValueError, match="is damaged"):
        folder.read_results()


def test_speech_of_a_long_question_counts_where_replies_are_written(tmp_path: Path, folder: TaskFolder) -> None:
    results = run(folder, tmp_path, ScriptedModel({"s0": Response("one", audio=tone(9.0))}))
    assert results["speed"]["audio"] == "question"
    assert results["speed"]["audio_seconds"] == pytest.approx(6.5)
