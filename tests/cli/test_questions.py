"""Several questions, and dialogues: one answer each, in order, in a file of its own; a failure loses no others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from ttt_hf.cli.main import build_parser
from ttt_hf.cli.questions import find_dialogues


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def recordings(question: Path, tmp_path: Path) -> Path:
    """A folder with two questions, and between them a file that is none."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name in ("a.wav", "c.wav"):
        shutil.copy(question, folder / name)
    (folder / "b.wav").write_text("no audio")
    return folder


def test_several_questions(run: Callable, checkpoint: Path, recordings: Path, tmp_path: Path) -> None:
    a, b, c = (recordings / name for name in ("a.wav", "b.wav", "c.wav"))
    out = tmp_path / "new" / "answers"
    result = run("talk", a, b, c, "--out", out, "--model", checkpoint)
    assert (result.code, result.out) == (1, f"{a}: Hi.\n{c}: Hi.\n")
    errors = [line for line in result.err.splitlines() if "error" in line]
    assert len(errors) == 2
    assert errors[0].startswith(f"ttt-hf: error: {b}: ") and "is not audio that can be read" in errors[0]
    assert errors[1] == "ttt-hf: error: 1 of 3 questions were not answered: see above."
    assert f"ttt-hf: {c}: 2.1 s of speech in {out / 'c.wav'}" in result.err
    assert files_of(out) == ["a.wav", "c.wav"]
    alone = tmp_path / "alone.wav"
    run("talk", c, "--out", alone, "--model", checkpoint)
    assert alone.read_bytes() == (out / "c.wav").read_bytes()


def test_json_lines(run: Callable, checkpoint: Path, recordings: Path) -> None:
    a, b = recordings / "a.wav", recordings / "b.wav"
    result = run("--quiet", "talk", b, a, "--model", checkpoint, "--json")
    first, second = map(json.loads, result.out.splitlines())
    assert list(first) == ["question", "error"] and first["question"] == str(b)
    assert "is not audio that can be read" in first["error"] and first["error"] in result.err
    assert (second["question"], second["text"], second["audio"]) == (str(a), "Hi.", None)
    assert second["seconds"]["load"] > 0
    assert result.code == 1


def test_streamed_answers_are_told_apart(run: Callable, checkpoint: Path, question: Path, tmp_path: Path) -> None:
    result = run("talk", question, "example", "--model", checkpoint, "--stream", "--out", tmp_path)
    assert (result.code, result.out) == (0, f"{question}: Hi.\nexample: Hi.\n")
    assert files_of(tmp_path) == ["example.wav", "question.wav"]


def test_standard_input_among_files(checkpoint: Path, question: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ttt_hf", "talk", "-", question, "--model", checkpoint, "--out", tmp_path]
    with question.open("rb") as stdin:
        result = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, f"-: Hi.\n{question}: Hi.\n"), result.stderr
    assert files_of(tmp_path) == ["question.wav", "stdin.wav"]


def test_a_dialogue(run: Callable, tmp_path: Path) -> None:
    words = ["--text", "What is two plus three?", "--follow-up", "example", "--follow-up-text", "Hello!"]
    result = run("talk", *words, "--out", tmp_path / "reply.wav", "--json", "--seed", "0")
    assert result.code == 0, result.err
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert [answer["question"] for answer in answers] == ["What is two plus three?", "example", "Hello!"]
    assert answers[0]["text"] == "Two plus three is five."
    assert files_of(tmp_path) == ["reply-2.wav", "reply-3.wav", "reply.wav"]
    for answer in answers:
        assert soundfile.info(answer["audio"]).duration == pytest.approx(answer["audio_seconds"], abs=0.001)
    streamed = run("talk", *words, "--seed", "0", "--stream")
    assert streamed.out == "".join(f"{answer['text']}\n" for answer in answers)


def test_a_dialogue_that_fails_keeps_what_was_said(run: Callable, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "reply.wav"
    result = run("talk", "example", "--follow-up", tmp_path / "b.wav", "--out", out, "--model", checkpoint)
    assert (result.code, result.out) == (1, "Hi.\n")
    assert result.err.endswith(f"ttt-hf: error: There is no audio file {tmp_path / 'b.wav'}.\n")
    assert files_of(tmp_path) == ["reply.wav"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a.wav b.wav --out reply.wav", "Several questions have several answers: name a folder in --out"),
        ("a.wav x/a.wav --out answers", "The answers to a.wav and x/a.wav would both be answers/a.wav: ask in two"),
        ("a.wav b.wav --out .", "The answer would replace the question a.wav: name another place in --out."),
        ("a.wav --out a.wav", "The answer would replace the question a.wav"),
        ("- -", "Standard input (-) can be read only once."),
        ("- --follow-up -", "Standard input (-) can be read only once."),
        ("a.wav b.wav --follow-up c.wav", "--follow-up goes on with one question"),
        ("a.wav --follow-up c.wav --task asr", "--task asr is no dialogue"),
        ("a.wav --follow-up-text=", "--follow-up-text is empty"),
        ("--text a --follow-up c.wav --task text", "--task text takes no audio"),
    ],
)
def test_what_does_not_fit_together(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("talk", *words.split())
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err
    assert files_of(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("a.wav --out {}", ["a.wav"]),
        ("--text Hello --out {}", ["answer.wav"]),
        ("https://host/x/speech.ogg?a=b.c - /dev/fd/63 --out {}", ["speech.wav", "stdin.wav", "63.wav"]),
        ("a.wav --out {}/b.WAV --follow-up c.wav --follow-up-text Hello", ["b.WAV", "b-2.WAV", "b-3.WAV"]),
    ],
)
def test_names_of_answers(tmp_path: Path, words: str, names: list[str]) -> None:
    args = build_parser().parse_args(["talk", *words.format(tmp_path).split()])
    turns = [turn for turns in find_dialogues(args) for turn in turns]
    assert [turn.out for turn in turns] == [tmp_path / name for name in names]
