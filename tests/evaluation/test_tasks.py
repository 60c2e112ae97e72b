"""Task files, presets, overrides and fingerprints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ttt_hf.evaluation.judge_prompts import load_prompt
from ttt_hf.evaluation.scoring.scorers import SCORERS, bind_scorer
from ttt_hf.evaluation.task_samples import load_samples
from ttt_hf.evaluation.tasks import fingerprint, load_task, preset, preset_names, task_names


MINIMAL = """
version: 1
source:
  path: ./data.jsonl
  columns: {audio: audio, references: text}
prompt: asr
output: text
scorer: wer
"""

# The numbers of samples that the benchmarks have; where nothing sure is known the task says so by none.
EXPECTED = {
    "librispeech_clean": 2620,
    "librispeech_other": 2939,
    "aishell1": 7176,
    "aishell2": 5000,
    "wenetspeech_net": 24774,
    "wenetspeech_meeting": 8370,
    "fleurs_en": 647,
    "fleurs_zh": 945,
    "common_voice_en": None,
    "common_voice_zh": None,
    "llama_questions_s2t": 300,
    "llama_questions_dpr_s2t": 300,
    "web_questions_s2t": 1000,
    "web_questions_dpr_s2t": 2032,
    "trivia_qa_s2t": 1000,
    "trivia_qa_dpr_s2t": None,
    "alpaca_eval_s2t": 199,
    "alpaca_eval_voicebench_s2t": 199,
    "clotho": 1045,
    "fsdd": 300,
    "local": None,
}


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


# -- what is shipped --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", task_names())
def test_shipped_task_is_whole(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    assert task.description.strip() == task.description != ""
    if task.language == "zh":
        pytest.importorskip("opencc", reason="needs the extra eval")
    bind_scorer(task.scorer, task.scorer_options)
    if not SCORERS[task.scorer].needs_judge:
        assert not task.judge
    if "prompt" in task.judge:
        assert load_prompt(task.judge["prompt"]).name == task.judge["prompt"]
    # Data that have to be fetched by hand say where.
    assert task.source.path or task.source.hint


@pytest.mark.parametrize(("name", "expected"), EXPECTED.items())
def test_number_of_samples_is_that_of_the_benchmark(name: str, expected: int | None) -> None:
    assert load_task(name).source.expected == expected


@pytest.mark.parametrize("name", [name for name in task_names() if name.endswith("_s2s")])
def test_speech_to_speech_differs_from_speech_to_text_in_its_output_alone(name: str) -> None:
    spoken, written = load_task(name), load_task(name.replace("_s2s", "_s2t"))
    assert (spoken.output, written.output) == ("speech", "text")
    assert spoken.source == written.source
    assert (spoken.scorer, spoken.scorer_options, spoken.judge) == (
        written.scorer,
        written.scorer_options,
        written.judge,
    )


@pytest.mark.parametrize("name", [name for name in task_names() if load_task(name).scorer == "choice"])
def test_instruction_names_every_choice(name: str) -> None:
    task = load_task(name)
    assert all(choice.lower() in task.instruction for choice in task.scorer_options["choices"])


@pytest.mark.parametrize("name", [name for name in task_names() if name.endswith("_zh") or "speech_" in name])
def test_chinese_is_not_scored_by_words(name: str) -> None:
    task = load_task(name)
    if task.language == "zh":
        assert task.scorer in ("cer", "mer")
        assert task.scorer_options["normalizer"].startswith("chinese")


def test_presets_name_tasks_that_are_there() -> None:
    assert preset_names() == ["paper", "asr", "audioqa", "tiny"]
    for name in preset_names():
        tasks = preset(name)
        assert len(set(tasks)) == len(tasks)
        assert set(tasks) <= set(task_names())
    assert len(preset("paper")) == 10  # columns of the paper's table
    assert all(name.startswith("tiny_") for name in preset("tiny"))


def test_unknown_preset_names_those_that_are_there() -> None:
    with pytest.raises(ValueError, match="no preset papers: choose one of paper, asr, audioqa, tiny"):
        preset("papers")


# -- files and overrides ----------------------------------------------------------------------------------------------


def test_file_is_a_task_named_after_it(task_file: Path) -> None:
    task = load_task(task_file)
    assert (task.name, task.version, task.language, task.source.split) == ("mine", 1, "en", "test")
    # The path begins at the file, wherever the command is run.
    assert task.source.path == str(task_file.parent / "data.jsonl")


def test_base_is_changed_only_where_said(tmp_path: Path) -> None:
    path = tmp_path / "half.yaml"
    path.write_text("base: librispeech_clean\nsource: {config: other, expected: 5}\n", encoding="utf-8")
    task, base = load_task(path), load_task("librispeech_clean")
    assert (task.name, task.source.name, task.source.expected) == ("half", "other", 5)
    assert (task.source.path, task.source.revision) == (base.source.path, base.source.revision)
    assert task.source.columns == base.source.columns
    assert task.scorer == base.scorer


def test_base_may_be_a_file_beside(task_file: Path) -> None:
    path = task_file.with_name("other.yaml")
    path.write_text("base: mine.yaml\nprompt: audio\n", encoding="utf-8")
    assert load_task(path).prompt == "audio"


@pytest.mark.parametrize("base", ["other.yaml", "../{folder}/other.yaml", "link.yaml"])
def test_a_base_that_leads_back_to_itself_is_refused(tmp_path: Path, base: str) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(f"base: {base.format(folder=tmp_path.name)}\n", encoding="utf-8")
    (tmp_path / "link.yaml").symlink_to(path)
    with pytest.raises(ValueError, match=r"/other\.yaml: its base leads back to itself"):
        load_task(path)


def test_overrides_reach_the_source_by_their_own_names() -> None:
    task = load_task("librispeech_clean", path="copy", expected=None, **{"columns.references": "words"})
    assert (task.source.path, task.source.expected) == ("copy", None)
    assert task.source.columns == {"id": "id", "audio": "audio", "references": "words"}
    assert task.source.name == "clean"
    assert load_task("local", columns={"references": "words"}).source.columns["audio"] == "audio"
    assert load_task("local", config="en").source.name == "en"
    assert load_task("local", name="talks").name == "talks"


def test_another_path_has_no_revision_unless_said() -> None:
    assert load_task("librispeech_clean").source.revision is not None
    assert load_task("librispeech_clean", path="copy").source.revision is None
    assert load_task("librispeech_clean", path="copy", revision="v2").source.revision == "v2"


def test_another_scorer_has_none_of_the_options_of_the_old_one() -> None:
    task = load_task("alpaca_eval_s2t", scorer="voicebench_judge", **{"judge.prompt": "voicebench"})
    assert task.scorer_options == {}
    assert task.judge == {"prompt": "voicebench"}
    assert load_task("tiny_asr", scorer="wer").scorer_options == {"normalizer": "whisper_english"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("librispeech_cleen", "did you mean librispeech_clean)"),
        ("nothing_like_it", "there are aishell1, "),
        ("absent.yaml", "no task file absent.yaml: check the path"),
    ],
)
def test_unknown_task_is_told_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(FileNotFoundError) as info:
        load_task(name)
    assert hint in str(info.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scorrer": "wer"}, "has no key 'scorrer' (did you mean scorer)"),
        ({"source.splitt": "x"}, "a source has no key 'splitt' (did you mean split)"),
        ({"output": "noise"}, 'output is "noise" and not one of text, speech'),
        ({"prompt": "sing"}, "prompt is 'sing' and not one of asr, "),
        ({"version": "1"}, 'version is "1" and not a whole number'),
        ({"expected": "all"}, 'source.expected is "all" and not a whole number'),
        ({"columns.transcript": "text"}, "has no key 'transcript'"),
        ({"columns.audio": ["a", "b"]}, "columns.audio is the name of a column"),
        ({"columns": "audio"}, "columns is a mapping"),
        ({"generation": 3}, "generation is 3 and not an object"),
        ({"generation": 3, "generation.top_k": 4}, "generation of the task is no mapping"),
    ],
)
def test_wrong_override_is_told_in_one_sentence(task_file: Path, change: dict, sentence: str) -> None:
    with pytest.raises(ValueError) as info:
        load_task(task_file, **change)
    assert sentence in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("version: [1", "is not valid YAML"),
        ("- a list", "must hold the keys of a task"),
        ("version: 1", "lacks prompt, output, scorer, source.path, source.columns"),
        ("version: 1\nsource: {path: a, columns: {}}\n", "lacks prompt, output, scorer"),
        (MINIMAL.replace("audio: audio, ", ""), "names neither audio nor question"),
    ],
)
def test_wrong_file_is_told_in_one_sentence(task_file: Path, text: str, sentence: str) -> None:
    task_file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as info:
        load_task(task_file)
    assert sentence in str(info.value)
    assert str(task_file) in str(info.value)
    assert "\n" not in str(info.value)


# -- fingerprints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "predicts"),
    [
        ({"prompt": "audio"}, True),
        ({"output": "speech"}, True),
        ({"instruction": "Say it."}, True),
        ({"generation": {"max_new_tokens": 5}}, True),
        ({"revision": "abc"}, True),
        ({"split": "dev"}, True),
        ({"columns.references": "other"}, True),
        ({"version": 2}, True),
        ({"scorer": "cer"}, False),
        ({"scorer_options": {"normalizer": "verbatim"}}, False),
        ({"judge": {"prompt": "x"}}, False),
        ({"language": "zh"}, False),
        ({"description": "other words"}, False),
        ({"expected": 4}, False),
    ],
)
def test_fingerprints_change_with_what_they_stand_for(task_file: Path, change: dict, predicts: bool) -> None:
    before, after = load_task(task_file), load_task(task_file, **change)
    assert (fingerprint(before) != fingerprint(after)) == predicts


def test_local_data_count_by_content_not_by_place(tmp_path: Path) -> None:
    rows = '{"audio": "https://example.org/a.wav", "text": "hi"}\n'
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.jsonl").write_text(rows, encoding="utf-8")
    one, two = (load_task("local", path=str(tmp_path / folder / "data.jsonl")) for folder in ("one", "two"))
    assert fingerprint(one, load_samples(one).content) == fingerprint(two, load_samples(two).content)
    (tmp_path / "two" / "data.jsonl").write_text(rows.replace("hi", "ho"), encoding="utf-8")
    assert fingerprint(one, load_samples(one).content) != fingerprint(two, load_samples(two).content)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": ["tiny_asr"]}, "base is the name of a task or of a YAML file, not ['tiny_asr']"),
        ({"name": 7}, "name is 7 and not a text"),
        ({"name": "../elsewhere"}, "name is '../elsewhere', which is no name of a folder"),
        ({"name": "a" * 3000}, "which is no name of a folder"),
        ({"prompt": {"asr": 1}}, "prompt is {'asr': 1} and not one of"),
        ({"output": ["text"]}, "output is a list and not one of text, speech"),
        ({"language": -1}, "language is -1 and not a text"),
        ({"description": {}}, "description is empty and not a text"),
        ({"description": "half \ud800"}, "broken Unicode"),
        ({"judge": {"samples": "many"}}, 'judge.samples is "many" and not a whole number'),
        ({"judge": {"prompt": ["a"]}}, "judge.prompt is a list and not a text"),
        ({"generation": {"temperature": float("nan")}}, "NaN is no number of JSON"),
        ({"source": {"path": ["a"], "columns": {"audio": "a"}}}, "source.path is a list and not a text"),
        ({"source": {"path": "a", "columns": {"audio": "a"}, "split": 3}}, "source.split is 3 and not a text"),
        ({"source": {"path": "a", "columns": {"audio": "a"}, "separator": []}}, "source.separator is empty"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_key(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    task = {
        "version": 1,
        "source": {"path": "data.jsonl", "columns": {"audio": "audio", "references": "text"}},
        "prompt": "asr",
        "output": "text",
        "scorer": "wer",
        **changes,
    }
    path = tmp_path / "task.yaml"
    # As JSON, which is YAML, too, and has an escape for half of a surrogate pair.
    path.write_text(json.dumps(task).replace("NaN", ".nan"))
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        load_task(path)
    assert words in str(error.value) and len(str(error.value)) < 400 + len(str(path))


def test_a_name_that_no_file_can_have_is_no_task() -> None:
    for name in ("x" * 3000 + ".yaml", "nul\0.yaml"):
        with pytest.raises(FileNotFoundError, match="There is no task"):
            load_task(name)


@pytest.mark.parametrize("options", [{"normalizer": ["verbatim"]}, {"choices": [["a"], "b"]}, {"choices": None}])
def test_options_of_another_type_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no normaliser|a list of two texts or more"):
        bind_scorer("choice", options)
