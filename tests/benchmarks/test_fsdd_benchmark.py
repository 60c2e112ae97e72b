"""The measure of fine-tuning on real speech: its rows, its commands, and all of it on a handful of recordings."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ttt_hf.training.arguments import load_recipe
from ttt_hf.training.preparation import parse_sources


ROOT = Path(__file__).resolve().parents[2]
QUESTION = ROOT / "examples" / "question.wav"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as where a script is run
    import fsdd

    yield fsdd
    sys.path.remove(str(ROOT / "benchmarks"))


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    """Twelve questions to train on and four held out, as the tiny recipe writes them, all in one recording."""
    folder = tmp_path / "domain"
    folder.mkdir()
    shutil.copy(QUESTION, folder)
    ids = ("question", "answer")
    write_jsonl(
        folder / "utterances.jsonl",
        [{"id": id_, "audio": QUESTION.name, "voice": "joe", "seconds": 2.0} for id_ in ids],
    )
    items = [
        {
            "id": f"{split}/{number}",
            "family": "food",
            "split": split,
            "question": f"What is a carrot, number {number}?",
            "answer": "A carrot is a vegetable.",
            "question_audio": ["question"],
            "answer_audio": "answer",
        }
        for split, count in (("train", 12), ("wording", 4))
        for number in range(count)
    ]
    write_jsonl(folder / "items.jsonl", items)
    return folder


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Six recordings to train on and two to test on."""
    folder = tmp_path / "fsdd"
    folder.mkdir()
    shutil.copy(QUESTION, folder)
    for split, count in (("train", 6), ("test", 2)):
        rows = [
            {"id": str(number), "audio": QUESTION.name, "text": "eight", "speaker": "joe", "seconds": 2.0}
            for number in range(count)
        ]
        write_jsonl(folder / f"{split}.jsonl", rows)
    return folder


def test_what_is_replayed_is_training_data_each_row_once(benchmark: ModuleType, domain: Path) -> None:
    rows = benchmark.replay_rows(domain, {"asr": 4, "chat": 5}, seed=0)
    assert {task: len(of_task) for task, of_task in rows.items()} == {"asr": 4, "chat": 5}
    assert all(Path(row["audio"]).is_file() for row in rows["asr"])
    assert all(Path(row["question_audio"]).is_file() and row["answer"] for row in rows["chat"])
    assert len({row["text"] for row in rows["asr"]}) == 4
    assert rows == benchmark.replay_rows(domain, {"asr": 4, "chat": 5}, seed=0)
    assert rows != benchmark.replay_rows(domain, {"asr": 4, "chat": 5}, seed=1)


def test_its_commands_are_those_of_a_user(benchmark: ModuleType, tmp_path: Path) -> None:
    *encode, train = benchmark.commands(tmp_path, workers=2, keys=["max_steps=3"])
    assert [words[0] for words in encode] == ["encode", "encode"]
    recipe = load_recipe(train[1], train[2:])
    assert recipe.training.max_steps == 3
    assert recipe.data.audio_variants > 0
    sources = parse_sources(recipe.data.train_data)
    assert [Path(source["path"]).name for source in sources] == ["digits.jsonl", "asr", "chat"]
    assert sum(source["ratio"] for source in sources) == pytest.approx(1.0)


def test_real_recordings_are_found(benchmark: ModuleType) -> None:
    if not benchmark.DIGITS.is_dir():
        pytest.skip(f"{benchmark.DIGITS} is not here")
    tested = {Path(row["audio"]).name for row in benchmark.digit_rows(benchmark.DIGITS, "test")}
    assert len(tested) == 300
    trained = {Path(row["audio"]).name for row in benchmark.digit_rows(benchmark.DIGITS, "train")}
    assert len(trained) == 1200
    assert not trained & tested


@pytest.mark.slow
def test_the_benchmark_runs(domain: Path, digits: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- fsdd:begin -->\n<!-- fsdd:end -->\n", encoding="utf-8")
    out = tmp_path / "out"
    options = [
        "--data",
        digits,
        "--domain",
        domain,
        "--out",
        out,
        "--questions",
        "2",
        "--threads",
        "1",
        "--workers",
        "1",
    ]
    options += ["--replay", "4", "4"]
    keys = ["max_steps=2", "per_device_train_batch_size=2", "audio_variants=1"]
    command = [sys.executable, ROOT / "benchmarks" / "fsdd.py", *options, *keys, "--readme", readme]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    for scores in (report["before"], report["after"]):
        assert [scores[name]["n"] for name in ("digits_wer", "domain_wer", "domain_answers")] == [2, 2, 2]
    assert report["adapter_bytes"] > 0 and report["minutes"]["processors"] > 0
    assert readme.read_text(encoding="utf-8").count("%**") == 3
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "name a new folder" in again.stderr
