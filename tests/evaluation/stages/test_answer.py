"""A model is asked each sample once, whatever happens in between, and every sample has a row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scripted import ScriptedModel, make_task, tone, write_task

from ttt_hf.evaluation.concepts import Response
from ttt_hf.evaluation.folder import TaskFolder
from ttt_hf.evaluation.stages.answer import answer_task, batches_by_length, file_name
from ttt_hf.evaluation.task_samples import load_samples
from ttt_hf.evaluation.tasks import load_task
from ttt_hf.processes import Processes


@pytest.fixture
def folder(tmp_path: Path) -> TaskFolder:
    return TaskFolder(tmp_path / "out" / "numbers")


def texts(folder: TaskFolder) -> dict[str, str]:
    return {row["id"]: row["text"] for row in folder.replies()}


def test_every_sample_is_asked_once_in_batches_of_similar_length(tmp_path: Path, folder: TaskFolder) -> None:
    task, model = make_task(tmp_path), ScriptedModel()
    answer_task(task, model, folder, batch_size=3)
    assert sorted(model.asked) == [f"s{number}" for number in range(10)]
    seconds = dict(zip(load_samples(task).ids, load_samples(task).seconds))
    lengths = [seconds[sample] for sample in model.asked]
    assert lengths == sorted(lengths, reverse=True)
    assert [len(batch) for batch in model.batches] == [3, 3, 3, 1]


def test_replies_come_in_the_order_of_the_data_with_all_that_is_known(tmp_path: Path, folder: TaskFolder) -> None:
    speech = tone(0.75)
    reply = Response("twelve", speech, 16000, (1, 2, 3), "length", 7, 5, 0.5)
    answer_task(make_task(tmp_path), ScriptedModel({"s3": reply}), folder)
    rows = folder.replies()
    assert [row["id"] for row in rows] == [f"s{number}" for number in range(10)]
    row = rows[3]
    assert row["references"] == ["four"]
    assert (row["text"], row["codes"], row["finish_reason"]) == ("twelve", [1, 2, 3], "length")
    assert (row["tokens"], row["forward_passes"], row["seconds"], row["error"]) == (7, 5, 0.5, None)
    assert row["question_seconds"] == pytest.approx(0.3)
    assert row["audio_seconds"] == 0.75
    heard, rate = soundfile.read(folder.path / row["audio"], dtype="float32")
    assert rate == 16000 and np.abs(heard - speech).max() < 1e-4
    assert soundfile.info(folder.path / row["audio"]).format == "FLAC"
    assert rows[0]["audio"] is None


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_an_interrupted_run_goes_on_with_the_same_batches(tmp_path: Path, folder: TaskFolder, stop: int) -> None:
    task, whole = make_task(tmp_path), ScriptedModel()
    answer_task(task, whole, TaskFolder(tmp_path / "whole"), batch_size=3)
    first = ScriptedModel(stop_after=stop)
    with pytest.raises(KeyboardInterrupt):
        answer_task(task, first, folder, batch_size=3)
    assert len(folder.replies()) == len(first.asked)
    with folder.predictions.open("a") as file:
        file.write('{"id": "s0", "finger')
    second = ScriptedModel()
    answer_task(task, second, folder, batch_size=3)
    assert first.batches + second.batches == whole.batches
    assert folder.replies() == TaskFolder(tmp_path / "whole").replies()
    last = ScriptedModel()
    answer_task(task, last, folder, batch_size=3)
    assert last.batches == []


def test_a_broken_recording_is_a_failed_reply_and_stays(tmp_path: Path, folder: TaskFolder) -> None:
    task, model = make_task(tmp_path), ScriptedModel()
    (tmp_path / "audio" / "4.wav").write_bytes(b"not audio")
    answer_task(task, model, folder)
    row = next(row for row in folder.replies() if row["id"] == "s4")
    assert "s4" not in model.asked and len(folder.replies()) == 10
    assert row["finish_reason"] == "error" and row["text"] == "" and row["error"]


def test_failed_replies_are_asked_for_again(tmp_path: Path, folder: TaskFolder) -> None:
    task = make_task(tmp_path)
    answer_task(task, ScriptedModel({"s2": Response("", finish_reason="error", error="The server is down.")}), folder)
    assert texts(folder)["s2"] == ""
    model = ScriptedModel()
    answer_task(task, model, folder)
    assert model.asked == ["s2"]
    assert texts(folder)["s2"] == "three"


def test_another_model_is_asked_everything_and_nothing_is_lost(tmp_path: Path, folder: TaskFolder) -> None:
    task = make_task(tmp_path)
    other = ScriptedModel({"s0": Response("zero", audio=tone(0.2))}, name="other")
    answer_task(task, ScriptedModel(speaks=True), folder)
    answer_task(task, other, folder)
    assert len(other.asked) == 10 and texts(folder)["s0"] == "zero"
    again = ScriptedModel(speaks=True)
    answer_task(task, again, folder)
    assert again.asked == []
    assert texts(folder)["s0"] == "one"
    assert soundfile.info(folder.path / folder.replies()[0]["audio"]).duration == pytest.approx(0.7)


@pytest.mark.parametrize(
    "change", [{"prompt": "chat"}, {"language": "de"}, {"generation": {"max_new_tokens": 5}}, {"instruction": "Now."}]
)
def test_what_decides_replies_makes_a_run_of_its_own(tmp_path: Path, folder: TaskFolder, change: dict) -> None:
    answer_task(make_task(tmp_path), ScriptedModel(), folder)
    model = ScriptedModel()
    answer_task(make_task(tmp_path, **change), model, folder)
    assert len(model.asked) == 10


def test_other_scoring_asks_nothing_again(tmp_path: Path, folder: TaskFolder) -> None:
    answer_task(make_task(tmp_path), ScriptedModel(), folder)
    model = ScriptedModel()
    answer_task(make_task(tmp_path, scorer="dpr_contains", description="other words"), model, folder)
    assert model.asked == []


def test_another_version_of_the_task_is_refused(tmp_path: Path, folder: TaskFolder) -> None:
    answer_task(make_task(tmp_path), ScriptedModel(), folder)
    before = folder.predictions.read_bytes()
    with pytest.raises(ValueError, match=r"holds replies to version 1 of task numbers, and this is version 2"):
        answer_task(make_task(tmp_path, version=2), ScriptedModel(), folder)
    assert folder.predictions.read_bytes() == before


def test_a_limit_takes_the_first_samples_and_a_whole_run_keeps_them(tmp_path: Path, folder: TaskFolder) -> None:
    task = make_task(tmp_path)
    answer_task(task, ScriptedModel(), folder, limit=4)
    settings = folder.read_settings()
    assert (settings["samples"], settings["n_expected"], settings["limited"]) == (["s0", "s1", "s2", "s3"], 10, True)
    model = ScriptedModel()
    answer_task(task, model, folder)
    assert sorted(model.asked) == [f"s{number}" for number in range(4, 10)]
    assert folder.read_settings()["limited"] is False
    answer_task(task, ScriptedModel(), folder, limit=2)
    assert len(folder.replies()) == 2


def test_processes_share_the_batches_of_one(tmp_path: Path) -> None:
    samples = load_samples(load_task(write_task(tmp_path)))
    batches = batches_by_length(samples, 3)
    parts = [Processes(rank, 3).shard(batches) for rank in range(3)]
    assert sorted(sample for part in parts for batch in part for sample in batch) == list(range(10))
    assert all(batch in batches for part in parts for batch in part)


def test_ids_of_any_kind_name_files() -> None:
    assert file_name("1089-134686-0000") == "1089-134686-0000"
    names = [file_name(sample) for sample in ("a/b", "a_b", "a\\b", "../a_b", "你好", "x" * 300, ".hidden", "A b")]
    assert len(set(names)) == len(names)
    assert all(len(name) < 100 and not name.startswith(".") and name.isascii() for name in names)


def test_settings_name_what_was_asked_of_what(tmp_path: Path, folder: TaskFolder) -> None:
    answer_task(make_task(tmp_path), ScriptedModel(), folder, batch_size=4)
    settings = json.loads(folder.settings.read_text())
    assert settings["model"] == {"name": "scripted", "revision": "1"}
    assert settings["task"]["name"] == "numbers" and settings["batch_size"] == 4
    assert {"python", "ttt-hf", "torch", "transformers"} <= settings["versions"].keys()
