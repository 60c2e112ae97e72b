"""Reports of an evaluation: what they read, the terminal table, Markdown, plots and the choice of examples."""

import json
import math
import re
from pathlib import Path

import jiwer
import pytest

from recorded_run import Answer, change_results, write_questions, write_recognition, write_tone
from ttt_hf.evaluation.folder import TaskFolder, judgement_fingerprint
from ttt_hf.evaluation.report import read_results, terminal_table, write_html, write_markdown
from ttt_hf.evaluation.report.examples import MAX_EMBEDDED_BYTES, choose_examples, differences, embedded_audio
from ttt_hf.evaluation.report.plots import error_plot, length_plot, summary_plots
from ttt_hf.evaluation.report.run_data import read_runs
from ttt_hf.evaluation.store import JsonLinesFile


LONG = "the quick brown fox jumps over the lazy dog"
HEARD = [
    Answer("short", "good morning", "good evening"),
    Answer("right", "see you soon", "see you soon"),
    Answer("long", LONG, LONG.replace("quick ", "").replace("lazy", "lazy old")),
    Answer("longer-right", f"{LONG} again", f"{LONG} again"),
    Answer("broken", "never heard", "", finish_reason="error", error="The recording is damaged."),
]
ASKED = [
    Answer("paris", "Paris", "It is Paris.", "Which city is the capital of France?", "it is paris"),
    Answer("spider", "eight", "It has six legs.", "How many legs has a spider?", "it has sick legs"),
    Answer("cut", "Mars", "It is the", "Which planet is red?", "it is the", "length"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three tasks: recognition, a part of recognition, and questions."""
    write_recognition(tmp_path / "reading", HEARD)
    write_recognition(tmp_path / "reading_part", HEARD[:2], limited=True)
    write_questions(tmp_path / "questions", ASKED)
    return tmp_path


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_table_shows_metrics_with_interval_samples_and_failures(run: Path) -> None:
    results = read_results(run)
    table = terminal_table(results)
    reading = next(entry for entry in results if entry["task"]["name"] == "reading")
    metric = reading["metrics"]["wer"]
    pairs = [(answer.reference, answer.text) for answer in HEARD]
    assert metric["value"] == pytest.approx(jiwer.wer(*map(list, zip(*pairs))))
    (line,) = [cells(line) for line in table.splitlines() if line.startswith("reading ")]
    interval = f"[{100 * metric['low']:.2f}, {100 * metric['high']:.2f}]"
    assert line == ["reading", "wer (%)", f"{100 * metric['value']:.2f}", interval, "5", "1", "0", "0", "0"]
    assert "some/model" in table.splitlines()[0]
    assert "reading: 1 failed, counted in the denominator. The first failure: " in table
    assert "note" not in terminal_table(read_results(run / "reading")).splitlines()[2]


def test_columns_of_the_table_are_aligned(run: Path) -> None:
    lines = terminal_table(read_results(run)).split("\n\n")[1].splitlines()
    rule = lines[1]
    assert set(rule) == {"-", " "}
    gaps = [place for place, mark in enumerate(rule) if mark == " "]
    assert all(line.ljust(len(rule))[place] == " " for line in lines for place in gaps)
    assert max(map(len, lines)) <= len(rule)


def test_speech_and_text_of_spoken_replies_stand_side_by_side_with_the_headline_first(run: Path) -> None:
    lines = terminal_table(read_results(run)).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("questions "))
    metrics = [cells(line) for line in lines[start : start + 3]]
    assert metrics[0][1] == "accuracy_speech (%)" and metrics[0][2] == "33.33"
    assert {row[0] for row in metrics[1:]} == {"accuracy_text (%)", "wer_speech_vs_text (%)"}


def test_values_of_a_limited_run_are_shown_with_what_they_are(run: Path) -> None:
    table = terminal_table(read_results(run))
    (line,) = [cells(line) for line in table.splitlines() if line.startswith("reading_part ")]
    # One of five words is wrong.
    assert line[1:3] == ["wer (%)", "20.00"] and line[4] == "2/4"
    assert line[-1] == "first 2 of 4: not the benchmark's number"


def test_a_limited_run_that_is_not_finished_shows_no_value(run: Path) -> None:
    change_results(run / "reading_part", n_scored=1)
    table = terminal_table(read_results(run / "reading_part"))
    assert "withheld" in table and "only 1 of 2 samples have a score so far" in table


def test_headline_of_an_unfinished_run_is_withheld(run: Path) -> None:
    change_results(run / "reading", headline=None, n_scored=3)
    table = terminal_table(read_results(run / "reading"))
    assert "withheld" in table and "3/5" in table
    assert "only 3 of 5 samples have a score so far" in table


def test_several_models_get_a_column(run: Path) -> None:
    one, other = read_results(run / "reading")[0], {**read_results(run / "reading")[0], "model": {"name": "/x/mine"}}
    lines = terminal_table([one, other]).splitlines()
    assert cells(lines[0])[0] == "model"
    assert [cells(line)[0] for line in lines[2:4]] == ["some/model", "mine"]


def test_value_that_is_not_there_is_said(run: Path) -> None:
    metrics = {
        "wer": {"value": None, "low": None, "high": None, "unit": "fraction", "higher_is_better": False, "n": 5}
    }
    change_results(run / "reading", metrics=metrics)
    assert "n/a" in terminal_table(read_results(run / "reading"))


def test_only_rows_of_these_settings_are_read(run: Path) -> None:
    task = next(task for task in read_runs(run) if task.name == "reading")
    assert [sample.id for sample in task.samples] == [answer.id for answer in HEARD]
    assert [sample.text for sample in task.samples] == [answer.text for answer in HEARD]


def test_transcript_and_audio_of_spoken_replies_are_read(run: Path) -> None:
    task = next(task for task in read_runs(run) if task.name == "questions")
    assert [sample.transcript for sample in task.samples] == [answer.speech for answer in ASKED]
    assert all(sample.audio is not None and sample.audio.is_file() for sample in task.samples)


def test_audio_outside_the_folder_is_left_alone(run: Path) -> None:
    write_tone(run / "secret.flac")
    path = run / "questions" / "predictions.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("audio/paris.flac", "../secret.flac"), encoding="utf-8")
    task = next(task for task in read_runs(run) if task.name == "questions")
    assert [sample.id for sample in task.samples if sample.audio is None] == ["paris"]


def test_folder_without_results(tmp_path: Path, run: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no evaluation"):
        write_markdown(run / "questions" / "audio")
    for results in run.glob("*/results.json"):
        results.unlink()
    with pytest.raises(FileNotFoundError, match="has no results yet"):
        write_markdown(run)
    assert not (run / "report.md").exists()


def test_tasks_that_are_not_scored_are_left_out(run: Path) -> None:
    (run / "reading" / "results.json").unlink()
    assert [task.name for task in read_runs(run)] == ["questions", "reading_part"]
    assert [entry["task"]["name"] for entry in read_results(run)] == ["questions", "reading_part"]


def test_results_of_another_schema(run: Path) -> None:
    change_results(run / "reading", schema_version=99)
    with pytest.raises(ValueError, match="schema_version 99"):
        write_markdown(run)


def test_markdown(run: Path) -> None:
    text = write_markdown(run).read_text(encoding="utf-8")
    assert text.startswith("# Evaluation of some/model\n")
    assert re.search(
        r"^\| reading \| wer \(%\) \| [\d.]+ \| \[[\d.]+, [\d.]+\] \| 5 \| 1 \| 0 \| 0 \| 0 \|  \|$", text, re.M
    )
    note = "first 2 of 4: not the benchmark's number"
    assert re.search(rf"^\| reading\\_part \| wer \(%\) \| 20.00 \| .* \| {note} \|$", text, re.M)
    assert f"**Limited run, {note}:**" in text
    # Every table keeps its number of cells.
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    settings = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.S)]
    assert [entry["fingerprint"] for entry in settings] == ["0123456789abcdef"] * 3


def test_model_text_cannot_break_markdown(tmp_path: Path) -> None:
    evil = "a | b\n\n# heading <script>alert(1)</script> `code` ![](http://example.com/x.png)"
    write_recognition(tmp_path / "evil", [Answer("a", "good morning", evil)])
    text = write_markdown(tmp_path / "evil").read_text(encoding="utf-8")
    assert "\n# heading" not in text and not re.search(r"(?<!\\)(<script|!\[)", text)
    (row,) = [line for line in text.splitlines() if line.startswith("| a |")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 4


def test_paths_of_this_machine_are_not_told(run: Path) -> None:
    change_results(run / "reading", model={"name": "/home/someone/models/mine", "codec": "/home/someone/codec"})
    text = write_markdown(run / "reading").read_text(encoding="utf-8")
    assert "mine" in text and "codec" in text and "/home/someone" not in text


def test_error_rates_by_length_add_up(run: Path) -> None:
    task = next(task for task in read_runs(run) if task.name == "reading")
    plot = length_plot(task)
    assert plot is not None
    assert [(bar.label, bar.note) for bar in plot.bars] == [
        ("1 to 5 words", "3 samples"),
        ("6 to 10 words", "2 samples"),
    ]
    # 1 of 2, 0 of 3 and 2 of 2 words; a missing and an added one of 9, and 0 of 10.
    assert [bar.text.split()[0] for bar in plot.bars] == [f"{100 * 3 / 7:.2f}", f"{100 * 2 / 19:.2f}"]
    part = next(task for task in read_runs(run) if task.name == "reading_part")
    assert length_plot(part) is None, "all of one range"


def test_kinds_of_errors_are_told_apart(run: Path) -> None:
    plot = error_plot([task for task in read_runs(run) if task.name == "reading"])
    assert plot is not None
    (bar,) = plot.bars
    assert bar.text == f"S {100 / 26:.2f} · D {300 / 26:.2f} · I {100 / 26:.2f}"
    ends = [segment.left + segment.width for segment in bar.segments]
    assert [segment.left for segment in bar.segments] == pytest.approx([0, *ends[:-1]])
    assert ends[-1] <= 100


def test_limited_tasks_are_not_drawn_beside_whole_ones(run: Path) -> None:
    plots = summary_plots(read_runs(run))
    assert [plot.title for plot in plots] == ["Error rates by task", "Kinds of errors", "Accuracy by task"]
    assert not any(bar.label == "reading_part" for plot in plots for bar in plot.bars)
    assert {bar.note for bar in plots[2].bars} == {"accuracy_speech", "accuracy_text"}
    for plot in plots:
        for bar in plot.bars:
            low, high = bar.interval or (0, 0)
            assert 0 <= low <= high <= 100 + 1e-9
        assert plot.ticks[0][0] == 0 and plot.ticks[-1][0] == 100


def test_examples_are_the_worst_the_best_and_some_others(run: Path) -> None:
    task = next(task for task in read_runs(run) if task.name == "reading")
    groups = {group.title: [sample.id for sample in group.samples] for group in choose_examples(task, count=1)}
    assert groups["Worst"] == ["broken"]
    assert groups["Best"] == ["longer-right"], "of two without errors the longer one"
    assert len(groups["Random"]) == 1 and groups["Random"][0] in {"short", "right", "long"}
    assert choose_examples(task, count=1) == choose_examples(task, count=1)
    questions = next(task for task in read_runs(run) if task.name == "questions")
    groups = {group.title: [sample.id for sample in group.samples] for group in choose_examples(questions, count=1)}
    assert groups["Best"] == ["paris"] and set(groups["Worst"] + groups["Random"]) == {"spider", "cut"}


def test_no_example_is_shown_twice(tmp_path: Path) -> None:
    answers = [Answer(f"s{number}", "one two three", "one two") for number in range(20)]
    write_recognition(tmp_path / "many", answers)
    groups = choose_examples(read_runs(tmp_path)[0])
    shown = [sample.id for group in groups for sample in group.samples]
    assert len(shown) == len(set(shown)) == 9


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("Good morning, Anna.", "good morning anna", []),
        ("see you soon", "see me soon", [("same", "see"), ("missing", "you"), ("added", "me"), ("same", "soon")]),
        ("今天很好", "今天好", [("same", "今 天"), ("missing", "很"), ("same", "好")]),
        ("", "noise", [("added", "noise")]),
    ],
)
def test_differences(reference: str, hypothesis: str, expected: list[tuple[str, str]]) -> None:
    assert [(part.kind, part.words) for part in differences(reference, hypothesis)] == expected


def test_recording_that_is_too_large_is_not_embedded(tmp_path: Path) -> None:
    write_tone(tmp_path / "short.wav")
    address = embedded_audio(tmp_path / "short.wav")
    assert address is not None and address.startswith("data:audio/wav;base64,")
    write_tone(tmp_path / "long.wav", seconds=math.ceil(MAX_EMBEDDED_BYTES / 2 / 16000) + 1)
    assert embedded_audio(tmp_path / "long.wav") is None


def test_words_of_the_judge_are_read(run: Path) -> None:
    files = TaskFolder(run / "questions")
    judge = {"model": "a-judge", "prompt": "some-prompt"}
    record = files.records()[0]
    answer = {"score": 1.0, "raw": "It is correct.", "error": None, "prompt_tokens": 9, "completion_tokens": 4}
    with JsonLinesFile(files.judgements) as file:
        file.append(
            {"id": record.id, "fingerprint": judgement_fingerprint(record, of), "judgements": [{**answer, "raw": raw}]}
            for of, raw in ((judge, "It is correct."), ({"model": "another"}, "No."))
        )
    files.update_settings(judge=judge)
    (task,) = read_runs(files.path)
    assert [sample.judgements for sample in task.samples] == [("It is correct.",), (), ()]


def test_a_run_without_errors_has_no_worst_reply_and_no_plot_of_errors(tmp_path: Path) -> None:
    answers = [Answer("short", "good night", "good night"), Answer("long", LONG, LONG), Answer("other", LONG, LONG)]
    write_recognition(tmp_path / "reading", answers)
    (task,) = read_runs(tmp_path)
    assert [group.title for group in choose_examples(task)] == ["Best", "Random"]
    assert error_plot([task]) is None and length_plot(task) is None
    (plot,) = summary_plots([task])
    assert plot.ticks[-1] == (100, "100 %"), "nothing sets a scale, so that it is that of the whole"
    assert "The worst replies" not in write_markdown(tmp_path).read_text(encoding="utf-8")


def test_the_worst_are_those_with_a_fault(tmp_path: Path) -> None:
    answers = [Answer(f"right-{number}", LONG, LONG) for number in range(9)] + [Answer("wrong", LONG, "the quick")]
    write_recognition(tmp_path / "reading", answers)
    (task,) = read_runs(tmp_path)
    groups = {group.title: [sample.id for sample in group.samples] for group in choose_examples(task)}
    assert groups["Worst"] == ["wrong"] and len(groups["Best"]) == len(groups["Random"]) == 3


def test_a_failed_reply_is_never_without_a_fault(tmp_path: Path) -> None:
    answers = [Answer("silence", "", "", finish_reason="error", error="Broken."), Answer("b", "b", "b")]
    write_recognition(tmp_path / "reading", answers)
    (task,) = read_runs(tmp_path)
    assert [sample.id for sample in choose_examples(task)[0].samples] == ["silence"]


def test_how_replies_ended_is_counted(tmp_path: Path) -> None:
    ends = ("stop", "stop", "length", "interrupted", "error")
    answers = [Answer(str(number), "a b", "a", finish_reason=end) for number, end in enumerate(ends)]
    results = write_recognition(tmp_path / "reading", answers)
    assert results["finish_reasons"] == {"error": 1, "interrupted": 1, "length": 1, "stop": 2}
    assert "Replies ended by: error 1, interrupted 1, length 1, stop 2" in write_markdown(tmp_path).read_text()
    write_html(tmp_path)
    assert '<span class="badge bad">interrupted</span>' in (tmp_path / "report.html").read_text()
