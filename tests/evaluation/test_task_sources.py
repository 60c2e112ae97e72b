"""Samples out of data of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from source_files import RATE, local, summary, tone_writer, write_csv, write_jsonl, write_parquet

from ttt_hf.evaluation.task_samples import load_samples
from ttt_hf.evaluation.tasks import load_task, preset


ROOT = Path(__file__).resolve().parents[2]
FSDD = ROOT / ".." / "shared" / "data" / "fsdd" / "test.jsonl"


@pytest.fixture
def make_audio(tmp_path: Path) -> Callable[..., Path]:
    return tone_writer(tmp_path)


@pytest.fixture
def prepared_data(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what `datasets` prepares out of the user's cache."""
    datasets = pytest.importorskip("datasets", reason="needs the extra train")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


TWO = [("0000000", 4000, ("Hi.",), None), ("0000001", 8000, ("007",), None)]


# -- kinds ------------------------------------------------------------------------------------------------------------


def test_jsonl_with_audio_beside_it(tmp_path, make_audio):
    make_audio("clips/a.wav", 0.5)
    make_audio("clips/b.wav", 1.0)
    rows = [{"audio": "clips/a.wav", "text": "Hi."}, {"audio": "clips/b.wav", "text": "007"}]
    samples = load_samples(local(write_jsonl(tmp_path / "data.jsonl", rows)))
    assert summary(samples) == TWO
    assert samples[0][0].sampling_rate == RATE
    assert samples[0][0].audio.dtype == np.float32
    assert samples[-1][0].id == samples[1:][0][0].id == "0000001"
    assert samples.seconds == [0.5, 1.0]
    assert samples.ids == ["0000000", "0000001"]


def test_json_list_and_csv_with_a_byte_order_mark(tmp_path, make_audio):
    rows = [{"audio": str(make_audio("a.wav", 0.5)), "text": "Hi."}, {"audio": "b.wav", "text": "007"}]
    make_audio("b.wav", 1.0)
    (tmp_path / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    assert summary(load_samples(local(tmp_path / "data.json"))) == TWO
    path = write_csv(tmp_path / "data.csv", rows)
    path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    # Digits are not made a number of.
    assert summary(load_samples(local(path))) == TWO


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_audio_folder_with_metadata(tmp_path, make_audio, kind):
    make_audio("set/a.wav", 0.5)
    make_audio("set/more/b.wav", 1.0)
    rows = [{"file_name": "a.wav", "text": "Hi."}, {"file_name": "more/b.wav", "text": "007"}]
    write = {"csv": write_csv, "jsonl": write_jsonl}[kind]
    write(tmp_path / "set" / f"metadata.{kind}", rows)
    assert summary(load_samples(local(tmp_path / "set"))) == TWO


def test_kaldi_folder_as_aishell2_is_unpacked(tmp_path, make_audio):
    make_audio("test/wav/C0/IC0W1.wav", 0.5)
    make_audio("test/wav/C0/IC0W2.wav", 1.0)
    (tmp_path / "test" / "wav.scp").write_text("IC0W1\twav/C0/IC0W1.wav\nIC0W2\twav/C0/IC0W2.wav\n", encoding="utf-8")
    (tmp_path / "test" / "trans.txt").write_text("IC0W2\t打开 空调\nIC0W1\t你好\n", encoding="utf-8")
    samples = load_samples(load_task("aishell2", path=str(tmp_path / "test"), expected=2))
    assert summary(samples) == [("IC0W1", 4000, ("你好",), None), ("IC0W2", 8000, ("打开 空调",), None)]


def test_several_files_are_one_set(tmp_path, make_audio):
    make_audio("set/a.wav", 0.5)
    for name, text in (("1", "one"), ("2", "two")):
        write_jsonl(tmp_path / "set" / f"part-{name}.jsonl", [{"audio": "a.wav", "text": text}])
    assert [entry[2] for entry in summary(load_samples(local(tmp_path / "set")))] == [("one",), ("two",)]


@pytest.mark.usefixtures("prepared_data")
def test_parquet_holds_its_recordings(tmp_path, make_audio):
    rows = [
        {"audio": {"bytes": make_audio("a.wav", 0.5).read_bytes(), "path": "a.wav"}, "text": "Hi."},
        {"audio": {"bytes": make_audio("b.wav", 1.0).read_bytes(), "path": None}, "text": "007"},
    ]
    path = write_parquet(tmp_path / "set" / "part-0.parquet", rows)
    for place in (path, path.parent):
        samples = load_samples(local(place))
        assert summary(samples) == TWO
        assert samples.seconds == [0.5, 1.0]


@pytest.mark.usefixtures("prepared_data")
@pytest.mark.parametrize(
    ("task", "folder", "rows"),
    [
        ("librispeech_other", "other", [{"id": "1-2-3", "text": "HELLO"}]),
        ("aishell1", "data", [{"text": "你好"}]),
        ("wenetspeech_meeting", "data", [{"sid": "Y1", "text": "你好"}]),
        ("fleurs_zh", "cmn_hans_cn", [{"transcription": "你好"}]),
        ("common_voice_en", "en", [{"sentence": "Hello."}]),
        ("alpaca_eval_voicebench_s2s", "alpacaeval", [{"prompt": "Hello?"}]),
        ("vocalsound", "data", [{"answer": "Sigh"}]),
        ("web_questions_dpr_s2t", "data", [{"question": "Who?", "answers": "Me"}]),
    ],
)
def test_copy_of_a_hub_data_set_is_read_like_the_hub_does(tmp_path, make_audio, task, folder, rows):
    audio = {"bytes": make_audio("a.wav").read_bytes(), "path": None}
    task = load_task(task, path=str(tmp_path / "copy"), expected=len(rows))
    split, config = task.source.split, task.source.name or "default"
    for name in (split, "train"):
        more = rows if name == split else [*rows, *rows]
        path = tmp_path / "copy" / folder / f"{name}-00000.parquet"
        write_parquet(path, [{"audio": audio, **row} for row in more])
    files = [{"split": name, "path": f"{folder}/{name}-*"} for name in (split, "train")]
    card = json.dumps({"configs": [{"config_name": config, "data_files": files}]})
    (tmp_path / "copy" / "README.md").write_text(f"---\n{card}\n---\n", encoding="utf-8")
    samples = load_samples(task)
    assert len(samples) == 1
    sample, error = samples[0]
    assert error is None
    assert sample.audio is not None
    expected = [] if "prompt" in rows[0] else [list(rows[0].values())[-1]]
    assert list(sample.references) == expected
    assert sample.question == rows[0].get("question", rows[0].get("prompt", ""))


@pytest.mark.parametrize(
    ("task", "row", "question", "references"),
    [
        ("llama_questions_s2s", {"Questions": "Who?", "Answer": "Me; you"}, "Who?", ("Me; you",)),
        ("web_questions_s2t", {"question": "Who?", "answers": "Me;You;"}, "Who?", ("Me", "You")),
        ("trivia_qa_s2t", {"question": "Who?", "answer_normalized_aliases": "me, you,me"}, "Who?", ("me", "you")),
        ("alpaca_eval_s2t", {"instruction": "Sing.", "output": "La, la; la."}, "Sing.", ("La, la; la.",)),
    ],
)
def test_openaudiobench_is_a_table_beside_a_folder_of_audio(tmp_path, make_audio, task, row, question, references):
    task = load_task(task, path=str(tmp_path), expected=1)
    make_audio(f"{task.source.audio_folder}/q 1.wav")
    write_csv(tmp_path / task.source.table, [{"audio_filename": "q 1.wav", **row}])
    sample, error = load_samples(task)[0]
    assert (sample.question, sample.references, error) == (question, references, None)
    assert sample.audio is not None
    # The table alone may be named, too.
    beside = make_audio(f"{Path(task.source.table).parent}/q 1.wav")
    assert load_samples(load_task(task.name, path=str(tmp_path / task.source.table), expected=1))[0][1] is None
    beside.unlink()


def test_several_columns_and_lists_are_several_references(tmp_path, make_audio):
    make_audio("evaluation/rain.wav")
    captions = {f"caption_{number}": f"rain {number}" for number in range(1, 6)}
    write_csv(tmp_path / "clotho_captions_evaluation.csv", [{"file_name": "rain.wav", **captions}])
    sample, _ = load_samples(load_task("clotho", path=str(tmp_path), expected=1))[0]
    assert sample.references == ("rain 1", "rain 2", "rain 3", "rain 4", "rain 5")
    rows = [{"q": "Who?", "answer": {"value": "Me", "aliases": ["Me", "I"]}, "n": 3}]
    path = write_jsonl(tmp_path / "data.jsonl", rows)
    task = local(path, columns={"question": "q", "references": "answer.aliases"})
    task = load_task("tiny_qa", path=str(path), expected=None, columns={"question": "q", "id": "n"})
    with pytest.raises(ValueError, match="has no text in its column 'answer'"):
        load_samples(task)
    task = load_task(
        "tiny_qa", path=str(path), expected=1, columns={"question": "q", "id": "n", "references": "answer.aliases"}
    )
    sample, error = load_samples(task)[0]
    assert (sample.id, sample.references, sample.audio, error) == ("3", ("Me", "I"), None, None)


def test_limit_takes_the_first_and_checks_the_whole_set(tmp_path, make_audio):
    make_audio("a.wav")
    path = write_jsonl(tmp_path / "data.jsonl", [{"audio": "a.wav", "text": str(number)} for number in range(5)])
    samples = load_samples(local(path, expected=5), limit=2)
    assert (len(samples), samples.total, samples.ids) == (2, 5, ["0000000", "0000001"])
    assert len(load_samples(local(path), limit=50)) == 5
    with pytest.raises(ValueError, match="at least 1, not 0"):
        load_samples(local(path), limit=0)


# -- what is shipped --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", preset("tiny"))
def test_tiny_tasks_are_in_the_package(name):
    task = load_task(name)
    samples = load_samples(task)
    assert len(samples) == task.source.expected
    assert len(set(samples.ids)) == len(samples)
    for sample, error in samples:
        assert error is None
        assert (sample.audio is not None) == ("audio" in task.source.columns)
        assert len(sample.references) == 1
        assert sample.question or sample.audio is not None
    if samples[0][0].audio is not None:
        lengths = [len(sample.audio) / sample.sampling_rate for sample, _ in samples[:5]]
        assert lengths == pytest.approx(samples.seconds[:5], abs=0.01)


@pytest.mark.skipif(not FSDD.is_file(), reason="the Free Spoken Digit Dataset is not beside the repository")
def test_spoken_digits_of_a_copy():
    samples = load_samples(load_task("fsdd", path=str(FSDD)))
    assert len(samples) == 300
    assert samples[0][0].sampling_rate == 8000
    assert {entry for sample, _ in samples[:5] for entry in sample.references} == {"zero"}
