"""`ttt-hf talk`: answers, the files it writes, and every bad input: one sentence, an exit code, no broken file."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from fixed_reply import MAX_POSITIONS, SPAN_LENGTH, tone, write_wav
from ttt_hf.cli.audio_output import wav_writer
from ttt_hf.modeling import TtTForConditionalGeneration
from ttt_hf.processing import TtTProcessor


# The span of audio of this checkpoint's answer always ends at its limit.
CUT = "ttt-hf: the answer or its speech was cut at a length limit (--max-new-tokens, or the model's own)\n"
REPLY_SECONDS = (SPAN_LENGTH - 1) / 12.5


def assert_whole_reply(path: Path) -> None:
    info = soundfile.info(path)
    assert (info.format, info.subtype, info.channels, info.samplerate) == ("WAV", "PCM_16", 1, 16000)
    assert info.duration == pytest.approx(REPLY_SECONDS)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def assert_one_error(result: Any, message: str, code: int = 1) -> None:
    assert result.code == code, result
    assert result.err.startswith("ttt-hf: error: "), result
    assert result.err.count("\n") == 1, result.err
    assert message in result.err
    assert not result.out


# -- answers ---------------------------------------------------------------------------------------


def test_answer(run: Callable, checkpoint: Path, question: Path, tmp_path: Path) -> None:
    reply = tmp_path / "reply.wav"
    result = run("talk", question, "--out", reply, "--model", checkpoint)
    assert (result.code, result.out) == (0, "Hi.\n")
    assert result.err == f"{CUT}ttt-hf: 2.1 s of speech in {reply}\n"
    assert_whole_reply(reply)


def test_json(run: Callable, checkpoint: Path, question: Path, tmp_path: Path) -> None:
    reply = tmp_path / "reply.wav"
    result = run("talk", question, "--out", reply, "--model", checkpoint, "--json", "--seed", "3")
    answer = json.loads(result.out)
    assert result.out.count("\n") == 1
    assert list(answer) == [
        "question", "text", "audio", "audio_seconds", "sampling_rate", "segments", "finish_reason",
        "num_forward_passes", "seconds",
    ]  # fmt: skip
    assert (answer["question"], answer["text"]) == (str(question), "Hi.")
    assert answer["audio"] == str(reply)
    assert answer["audio_seconds"] == pytest.approx(REPLY_SECONDS)
    assert answer["sampling_rate"] == 16000
    assert answer["segments"] == [
        {"type": "text", "text": "Hi"},
        {"type": "audio", "seconds": pytest.approx(REPLY_SECONDS), "complete": True},
        {"type": "text", "text": "."},
    ]
    assert answer["finish_reason"] == "length"
    assert answer["num_forward_passes"] >= 3 + 3 * 3
    assert set(answer["seconds"]) == {"load", "encode", "generate", "decode"}
    assert all(value >= 0 for value in answer["seconds"].values())
    assert_whole_reply(reply)


def test_without_out_nothing_is_written(
    run: Callable, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("talk", "--text", "Hello there.", "--model", checkpoint, "--json")
    answer = json.loads(result.out)
    assert (answer["text"], answer["audio"]) == ("Hi.", None)
    assert answer["audio_seconds"] > 0
    assert "--out FILE.wav keeps it" in result.err
    assert list(tmp_path.iterdir()) == []


def test_streaming_gives_the_same(run: Callable, checkpoint: Path, question: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "pieces").mkdir()
    whole, pieces = tmp_path / "whole" / "reply.wav", tmp_path / "pieces" / "reply.wav"
    run("talk", question, "--out", whole, "--model", checkpoint)
    result = run("talk", question, "--out", pieces, "--model", checkpoint, "--stream")
    assert (result.code, result.out) == (0, "Hi.\n")
    assert result.err.startswith("ttt-hf: first audio after ")
    assert CUT in result.err
    assert_whole_reply(pieces)
    difference = soundfile.read(whole)[0] - soundfile.read(pieces)[0]
    assert np.abs(difference).max() < 2e-4


def test_streaming_with_json_prints_json_alone(run: Callable, checkpoint: Path, tmp_path: Path) -> None:
    reply = tmp_path / "reply.wav"
    result = run("talk", "--text", "Hello", "--out", reply, "--model", checkpoint, "--stream", "--json")
    assert json.loads(result.out)["audio"] == str(reply)
    assert_whole_reply(reply)


def test_weights_in_8_bits(run: Callable) -> None:
    result = run("talk", "--text", "What is two plus three?", "--task", "text", "--bits", "8", "--dtype", "float32")
    assert (result.code, result.out, result.err) == (0, "Two plus three is five.\n", "")
    result = run("talk", "--text", "What is two plus three?", "--task", "text", "--bits", "8", "--dtype", "bfloat16")
    assert_one_error(result, "weights in 8 bits are multiplied in float32")


@pytest.fixture
def generate_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Arguments of the calls of `generate`, but for those of the loader, which checks the checkpoint's settings."""
    calls: list[dict[str, Any]] = []
    generate = TtTForConditionalGeneration.generate

    def remember(self: Any, *prompt: Any, **arguments: Any) -> Any:
        if "custom_generate" not in arguments:
            calls.append(arguments)
        return generate(self, *prompt, **arguments)

    monkeypatch.setattr(TtTForConditionalGeneration, "generate", remember)
    return calls


def test_task_chooses_the_prompt(
    run: Callable, checkpoint: Path, question: Path, generate_calls: list[dict[str, Any]]
) -> None:
    for arguments in ([question], [question, "--task", "asr"], ["--text", "Hi", "--task", "tts"]):
        assert run("talk", *arguments, "--model", checkpoint).code == 0
    assert len({tuple(call["input_ids"][0, :40].tolist()) for call in generate_calls}) == 3


def test_options_reach_generate(run: Callable, checkpoint: Path, generate_calls: list[dict[str, Any]]) -> None:
    command = ["talk", "--text", "Hello", "--model", checkpoint]
    run(*command)
    run(*command, "--max-new-tokens", "2", "--seed", "5", "--temperature", "0.5")
    run(*command, "--max-new-tokens", "100000", "--temperature", "0")
    names = ("max_new_tokens", "seed", "do_sample", "temperature")
    values = [{name: arguments[name] for name in names if name in arguments} for arguments in generate_calls]
    room = MAX_POSITIONS - generate_calls[2]["input_ids"].shape[1]
    assert values == [
        {"max_new_tokens": 200},
        {"max_new_tokens": 2, "seed": 5, "do_sample": True, "temperature": 0.5},
        {"max_new_tokens": room, "do_sample": False},
    ]


def test_answer_without_speech(run: Callable, checkpoint: Path, tmp_path: Path) -> None:
    reply = tmp_path / "reply.wav"
    result = run("talk", "--text", "Hello", "--out", reply, "--model", checkpoint, "--max-new-tokens", "2")
    assert (result.code, result.out) == (0, "Hi\n")
    assert result.err == f"{CUT}ttt-hf: the answer has no speech, {reply} was not written\n"
    assert list(tmp_path.iterdir()) == []


def test_an_answer_in_a_loop_says_so(run: Callable, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = TtTProcessor.decode_reply
    looping = "Well, " + "diff " * 20 + "diffto"
    monkeypatch.setattr(
        TtTProcessor,
        "decode_reply",
        lambda self, *args, **kw: dataclasses.replace(decode(self, *args, **kw), text=looping),
    )
    result = run("talk", "--text", "Hello", "--model", checkpoint)
    assert result.code == 0
    assert "ttt-hf: the answer repeats itself in a loop" in result.err


# -- where a question comes from -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["-", "/dev/stdin", "<(cat question)", "fifo"])
def test_piped_questions(checkpoint: Path, question: Path, tmp_path: Path, how: str) -> None:
    """A pipe tells neither its length nor its name, and cannot be read twice."""
    shutil.copy(question, tmp_path / "question")
    os.mkfifo(tmp_path / "fifo")
    command = f"cat question | {sys.executable} -m ttt_hf talk {how} --model {checkpoint} --json"
    if how == "fifo":
        command = f"cat question > fifo & {command}"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["text"] == "Hi."


@pytest.mark.parametrize("how", ["</dev/null", "<&-", "< words"])
def test_standard_input_without_a_question(tmp_path: Path, how: str) -> None:
    (tmp_path / "words").write_text("What is two plus three?")
    command = f"{sys.executable} -m ttt_hf talk - {how}"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("ttt-hf: error: ") and result.stderr.count("\n") == 1
    assert "Unexpected" not in result.stderr


def test_the_example_comes_with_the_package(
    run: Callable, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("talk", "example", "--model", checkpoint).out == "Hi.\n"
    # A file of that name is what the user means.
    (tmp_path / "example").write_text("no audio")
    assert_one_error(run("talk", "example", "--model", checkpoint), "example is not audio that can be read")


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 96000])
@pytest.mark.parametrize("channels", [1, 2])
def test_rates_and_channels(run: Callable, checkpoint: Path, tmp_path: Path, rate: int, channels: int) -> None:
    path = tmp_path / "question.wav"
    samples = tone(0.5, rate)
    write_wav(path, samples if channels == 1 else np.stack([samples, samples], axis=1), rate)
    result = run("talk", path, "--model", checkpoint, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["text"] == "Hi."


def test_in_a_process_of_its_own(checkpoint: Path, question: Path, tmp_path: Path) -> None:
    reply = tmp_path / "reply.wav"
    command = [sys.executable, "-m", "ttt_hf.cli", "talk", question, "--out", reply, "--model", checkpoint, "--json"]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["text"] == "Hi."
    assert result.stderr == f"{CUT}ttt-hf: 2.1 s of speech in {reply}\n", "no progress bars, no warnings"
    assert_whole_reply(reply)


# -- questions that cannot be used -----------------------------------------------------------------


def wav_of(samples: np.ndarray, rate: int = 16000) -> Callable[[Path], None]:
    return lambda path: write_wav(path, samples, rate)


def float_wav(samples: np.ndarray) -> Callable[[Path], None]:
    return lambda path: soundfile.write(path, samples, 16000, subtype="FLOAT")


QUESTIONS = {
    "missing": (lambda path: None, "There is no audio file"),
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "not audio": (lambda path: path.write_text("What is two plus two?" * 9), "is not audio that can be read"),
    "empty": (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
    "no samples": (wav_of(np.zeros(0)), "holds no samples"),
    "silence": (wav_of(np.zeros(32000)), "is silent"),
    "one sample": (wav_of(np.ones(1)), "is too short: 1 sample"),
    "NaN": (float_wav(np.full(16000, np.nan)), "NaN"),
    "ten minutes": (
        wav_of(np.tile(tone(1.0, 16000), 600)),
        "The question is too long: 600 s, and at most",
    ),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_bad_questions(run: Callable, checkpoint: Path, tmp_path: Path, name: str) -> None:
    make, message = QUESTIONS[name]
    make(tmp_path / "question.wav")
    (tmp_path / "out").mkdir()
    result = run("talk", tmp_path / "question.wav", "--out", tmp_path / "out" / "reply.wav", "--model", checkpoint)
    assert_one_error(result, message)
    assert list((tmp_path / "out").iterdir()) == []


def test_text_that_is_too_long(run: Callable, checkpoint: Path) -> None:
    result = run("talk", "--text", "too long " * 200, "--model", checkpoint)
    assert_one_error(result, f"and the model reads less than {MAX_POSITIONS}. Shorten it.")


# -- outputs that cannot be written ----------------------------------------------------------------


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model is a failure: the error has to come before it."""

    def fail(folder: Path) -> None:
        pytest.fail("the model was loaded first")

    monkeypatch.setattr("ttt_hf.loading.load_checkpoint", fail)


@pytest.mark.usefixtures("no_model")
def test_output_folder_missing(run: Callable, checkpoint: Path, question: Path, tmp_path: Path) -> None:
    result = run("talk", question, "--out", tmp_path / "nowhere" / "reply.wav", "--model", checkpoint)
    assert_one_error(result, "does not exist: make it first")


@pytest.mark.usefixtures("no_model")
def test_output_folder_is_a_file(run: Callable, checkpoint: Path, question: Path) -> None:
    assert_one_error(run("talk", question, "--out", question / "reply.wav", "--model", checkpoint), "is not a folder")


@pytest.mark.usefixtures("no_model")
def test_output_is_a_folder(run: Callable, checkpoint: Path, question: Path, tmp_path: Path) -> None:
    (tmp_path / "reply.wav").mkdir()
    result = run("talk", question, "--out", tmp_path / "reply.wav", "--model", checkpoint)
    assert_one_error(result, "is a folder: name a file")


@pytest.mark.usefixtures("no_model")
def test_output_folder_is_read_only(
    run: Callable, checkpoint: Path, question: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Simulated: permissions do not stop tests that run as root.
    def refuse(**arguments: Any) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    result = run("talk", question, "--out", tmp_path / "reply.wav", "--model", checkpoint)
    assert_one_error(result, "reply.wav cannot be written: Permission denied.")


@pytest.mark.parametrize("options", [[], ["--stream"]], ids=["at-once", "streamed"])
def test_full_disk_leaves_the_old_file(
    run: Callable, checkpoint: Path, question: Path, tmp_path: Path, limit_file_size: Callable, options: list[str]
) -> None:
    reply = tmp_path / "reply.wav"
    reply.write_bytes(b"what was there before")
    with limit_file_size(1000):
        result = run("talk", question, "--out", reply, "--model", checkpoint, *options)
    assert result.code == 1
    assert "reply.wav cannot be written (System error): free some space" in result.err
    assert reply.read_bytes() == b"what was there before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["reply.wav"]


def test_interrupted_writing_leaves_no_file(tmp_path: Path) -> None:
    def write_and_stop() -> None:
        with wav_writer(tmp_path / "reply.wav", 16000) as write:
            write(np.zeros(16000, np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_stop()
    assert not list(tmp_path.iterdir())


def test_written_wav_is_clipped(tmp_path: Path) -> None:
    with wav_writer(tmp_path / "loud.wav", 16000) as write:
        write(np.array([0.0, 2.0, -2.0], np.float32))
    assert soundfile.read(tmp_path / "loud.wav", dtype="int16")[0].tolist() == [0, 32767, -32768]


# -- pictures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--stream"]])
def test_picture(run: Callable, checkpoint: Path, question: Path, tmp_path: Path, options: list[str]) -> None:
    picture, reply = tmp_path / "reply.svg", tmp_path / "out" / "reply.wav"
    reply.parent.mkdir()
    result = run("talk", question, "--out", reply, "--picture", picture, "--model", checkpoint, *options)
    assert (result.code, result.out.strip()) == (0, "Hi.")
    assert f"forwards a second of speech, see {picture}\n" in result.err
    assert "2.1 s of speech" in picture.read_text(encoding="utf-8")
    assert_whole_reply(reply)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--picture", "reply.jpg"], "--picture writes SVG or PNG: reply.jpg must end in .svg or .png."),
        (["other.wav", "--picture", "reply.svg"], "--picture draws one answer"),
        (["--follow-up-text", "And?", "--picture", "reply.svg"], "--picture draws one answer"),
    ],
)
def test_pictures_that_cannot_be_drawn(run: Callable, question: Path, options: list[str], message: str) -> None:
    assert_one_error(run("talk", question, *options), message, code=2)
