"""`ttt-hf chat`: replies line by line, commands, and errors that leave the dialogue alive."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from test_sound import FakeDevice

from fixed_reply import SPAN_LENGTH
from ttt_hf.cli import terminal_chat as verb
from ttt_hf.cli.errors import UsageError
from ttt_hf.cli.generation_keys import changed_settings
from ttt_hf.loading import load_model_and_processor
from ttt_hf.processing import TtTProcessor
from ttt_hf.processing.reply_streams import ReplyStream


SPEECH_NOTE = "ttt-hf: 2.1 s of speech: /save FILE.wav keeps it\n"
CUT_NOTE = "ttt-hf: the reply or its speech was cut at a length limit: /set max_new_tokens=N raises it\n"
NOTES = CUT_NOTE + SPEECH_NOTE  # the span of this checkpoint's reply always ends at its limit


@pytest.fixture
def talk(run: Callable, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Pipes lines into a chat with the checkpoint that always gives the same reply."""

    def call(*lines: str | bytes, options: tuple[object, ...] = (), model: Path = checkpoint) -> object:
        piped = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
        return run("chat", model, *options)

    return call


# -- turns ---------------------------------------------------------------------------------------------------------


def test_replies_are_all_that_goes_to_stdout(talk: Callable) -> None:
    assert talk("Hello.", "", "Hello there.") == (0, "Hi.\nHi.\n", NOTES * 2)


def test_an_empty_input_is_no_error(talk: Callable) -> None:
    assert talk() == (0, "", "")


def test_quiet(talk: Callable) -> None:
    assert talk("Hello.", options=("--quiet",)) == (0, "Hi.\n", "")


def test_nothing_comes_after_quit(talk: Callable) -> None:
    assert talk("Hello.", "/quit", "/nonsense").out == "Hi.\n"


def test_speech_is_heard_and_written(talk: Callable, question: Path, tmp_path: Path) -> None:
    reply = tmp_path / "my reply.wav"
    result = talk(f"/audio {question}", f"/save {reply}", f'/audio "{question}"')
    assert (result.code, result.out) == (0, "Hi.\nHi.\n")
    assert f"ttt-hf: 2.1 s of speech in {reply}\n" in result.err
    assert soundfile.info(reply).duration == pytest.approx((SPAN_LENGTH - 1) / 12.5)


def test_the_dialogue_can_be_saved_and_encoded_again(talk: Callable, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "dialogue.json"
    assert talk("Hello.", "Hello.", f"/save {path}").code == 0
    messages = json.loads(path.read_text())
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    inputs = TtTProcessor.from_pretrained(checkpoint).apply_chat_template(messages)
    assert inputs["input_ids"].shape[1] > 2 * SPAN_LENGTH


def test_the_embedded_model_answers_turn_after_turn(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "What is two plus two?\n/audio example\n/task asr\n/audio example\n/task text\nWhat is two plus three?\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    result = run("chat")
    assert result.code == 0, result.err
    assert result.out.splitlines() == [
        "Two plus two is four.",
        "The carrot is a vegetable.",
        "Please tell me what a carrot is.",
        "Two plus three is five.",
    ]
    assert "/turns all" in result.err


@pytest.mark.parametrize(
    ("reason", "words"), [("repetition", "the reply repeated itself"), ("stop", "the reply repeats itself in a loop")]
)
def test_a_reply_in_a_loop_is_named_once(
    talk: Callable, monkeypatch: pytest.MonkeyPatch, reason: str, words: str
) -> None:
    finish = ReplyStream.reply
    looping = {"text": "Well, " + "diff " * 20 + "diffto", "finish_reason": reason}
    monkeypatch.setattr(ReplyStream, "reply", lambda *args: dataclasses.replace(finish(*args), **looping))
    result = talk("Hello.")
    assert words in result.err
    assert result.err.count("it is not to be trusted") == 1


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model sees, turn by turn."""
    prompts: list[str] = []
    encode = TtTProcessor.apply_chat_template

    def remember(self: TtTProcessor, messages: list, **arguments: object) -> object:
        prompts.append(encode(self, messages, task=arguments["task"], tokenize=False))
        return encode(self, messages, **arguments)

    monkeypatch.setattr(TtTProcessor, "apply_chat_template", remember)
    return prompts


def test_what_the_model_sees(talk: Callable, seen: list[str]) -> None:
    talk("one", "two", "/turns 0", "three", "/turns all", "/task text", "four", "/system Be kind.", "five", "/clear",
         "six", "/system", "seven")  # fmt: skip
    words = ("one", "two", "three", "four", "five", "six", "seven", "Be kind.", "audio-to-audio", "helpful model")
    assert [[word for word in words if word in prompt] for prompt in seen] == [
        ["one", "audio-to-audio"],
        ["one", "two", "audio-to-audio"],
        ["three", "audio-to-audio"],
        ["four", "helpful model"],
        ["four", "five", "Be kind."],
        ["six", "Be kind."],
        ["six", "seven", "helpful model"],
    ]


def test_single_turn_tasks_see_no_other_turn(talk: Callable, seen: list[str]) -> None:
    talk("/turns all", "one", "two", options=("--task", "tts"))
    assert "one" not in seen[1] and "Text-to-Speech" in seen[1]


def test_settings_reach_the_model(talk: Callable) -> None:
    result = talk("/set", "/set audio_max_span_length=9", "/set seed=3", "Hello.", "/set", "/set seed=null", "/set")
    assert result.out == "nothing\nHi.\naudio_max_span_length=9\nseed=3\naudio_max_span_length=9\n"
    assert "0.6 s of speech" in result.err


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nonsense", "There is no command /nonsense: /help lists them."),
        ("/audio", "/audio needs a FILE."),
        ("/audio -", "would read the chat itself"),
        ("/audio missing.wav", "There is no audio file missing.wav."),
        ("/listen", "/listen needs a terminal"),
        ("/save", "/save writes the last reply to a FILE.wav"),
        ("/save reply.mp3", "/save writes the last reply to a FILE.wav"),
        ("/save reply.wav", "The last reply has no speech, reply.wav was not written."),
        ("/save dialogue.json", "Nothing has been said yet"),
        ("/task sing", "There is no task 'sing': choose one of chat, asr, tts, text."),
        ("/turns many", "/turns needs a number, or all."),
        ("/set temprature=1", "did you mean temperature"),
        ("/set seed", "is not an override"),
        (b"\xff\xfe", "not text in UTF-8"),
        ("Hello. " * 600, "The turn is too long"),
    ],
)
def test_an_error_is_one_sentence_and_the_chat_goes_on(talk: Callable, line: str | bytes, message: str) -> None:
    result = talk(line, "Hello.")
    assert (result.code, result.out) == (1, "Hi.\n")
    first, *_, last = result.err.splitlines()
    assert first.startswith("ttt-hf: error: ") and message in first
    assert last == "ttt-hf: error: 1 of 2 lines could not be used, as said above: correct them."
    assert result.err == f"{first}\n{NOTES}{last}\n"


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        ("asr", "Hello.", "give one by /audio FILE"),
        ("tts", "/audio example", "The task tts takes text"),
        ("text", "/audio example", "The task text takes text"),
    ],
)
def test_tasks_take_what_they_are_for(talk: Callable, task: str, line: str, message: str) -> None:
    result = talk(line, options=("--task", task))
    assert (result.code, result.out) == (1, "") and message in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--model", "x"), "unrecognized"), (("--task", "sing"), "invalid choice"), (("--bits", "3"), "invalid choice")],
)
def test_wrong_options(talk: Callable, options: tuple[str, ...], message: str) -> None:
    result = talk(options=options)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1


def test_a_model_without_a_codec_writes(talk: Callable, checkpoint: Path, tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.mkdir()
    for file in checkpoint.iterdir():
        if file.is_file():
            (silent / file.name).symlink_to(file) if file.suffix == ".py" else silent.joinpath(file.name).write_bytes(
                file.read_bytes()
            )
    result = talk("Hello.", model=silent)
    assert (result.code, result.out) == (2, "") and "--task text" in result.err
    result = talk("Hello.", "/task tts", options=("--task", "text"), model=silent)
    assert (result.code, result.out) == (1, "Hi.\n") and "needs a codec" in result.err


def test_an_unexpected_error_has_a_traceback_only_if_asked(talk: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("inside")

    monkeypatch.setattr(verb.Chat, "_say", fail)
    assert "Traceback" not in talk("Hello.").err
    result = talk("Hello.", options=("--verbose",))
    assert "Traceback" in result.err and "Unexpected KeyError" in result.err


@pytest.mark.parametrize(
    "override",
    ["audio_steps_per_block=0", "max_new_tokens=abc", "max_new_tokens=0", "temperature=hot", "temperature=.nan",
     "num_beams=3", "top_k=many", "max_length=5", "streamer=1", "num_return_sequences=2", "seed=-1", "=3",
     "audio_remasking=x", "eos_token_id=x"],
)  # fmt: skip
def test_keys_are_checked(checkpoint: Path, override: str) -> None:
    model, _ = load_model_and_processor(str(checkpoint))
    before = {"seed": 3}
    with pytest.raises(UsageError) as raised:
        changed_settings(model, before, override)
    assert before == {"seed": 3} and "\n" not in str(raised.value)


def test_temperature_chooses_how_text_is_decoded(checkpoint: Path) -> None:
    model, _ = load_model_and_processor(str(checkpoint))
    sampled = changed_settings(model, {"seed": 3}, "temperature=0.5")
    assert sampled == {"seed": 3, "temperature": 0.5, "do_sample": True}
    assert changed_settings(model, sampled, "temperature=0") == {"seed": 3, "do_sample": False}
    assert changed_settings(model, sampled, "temperature=null") == {"seed": 3}


# -- interruption --------------------------------------------------------------------------------------------------


class Output(io.StringIO):
    """Somebody who presses Ctrl-C when a text has come."""

    def __init__(self, presses: int) -> None:
        super().__init__()
        self.presses = presses

    def write(self, text: str) -> int:
        written = super().write(text)
        if "H" in text:
            presses, self.presses = self.presses, 0
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        return written

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize("presses", [1, 2])
def test_the_first_ctrl_c_ends_the_reply_and_the_second_one_leaves(
    talk: Callable, monkeypatch: pytest.MonkeyPatch, presses: int
) -> None:
    output = Output(presses)
    monkeypatch.setattr(sys, "stdout", output)
    result = talk("Hello.", "Hello.")
    if presses == 1:
        assert result.code == 0 and output.getvalue() == "Hi\nHi.\n"
        assert "ttt-hf: the reply was interrupted\n" in result.err
    else:
        assert result.code == 130 and output.getvalue() == "H\n"
        assert result.err == "ttt-hf: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# -- a terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.slow  # a process of its own, which loads a model
def test_a_terminal(checkpoint: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "ttt_hf", "chat", str(checkpoint)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb"}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path, env=environment, start_new_session=True
    )
    os.close(slave)
    shown = ""

    def wait_for(text: str) -> None:
        nonlocal shown
        end = time.monotonic() + 120
        while text not in shown and time.monotonic() < end:
            if select.select([master], [], [], 1)[0]:
                shown += os.read(master, 4096).decode()
        assert text in shown
        shown = shown.partition(text)[2]

    wait_for("> ")
    os.write(master, b"Hello.\n")
    wait_for("Hi.\r\n")
    wait_for("> ")
    os.write(master, b"/nonsense\n")
    wait_for("There is no command /nonsense")
    wait_for("> ")
    os.write(master, b"/li\t\n")  # completed
    wait_for("sounddevice" if not has_sounddevice() else "ttt-hf: error: ")
    wait_for("> ")
    os.write(master, b"/quit\n")
    assert process.wait(60) == 0
    os.close(master)


def has_sounddevice() -> bool:
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


# -- sound ---------------------------------------------------------------------------------------------------------


def test_replies_are_played(talk: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = FakeDevice(monkeypatch)
    reply = tmp_path / "reply.wav"
    result = talk("Hello.", f"/save {reply}", options=("--play",))
    assert result.code == 0, result.err
    written, rate = soundfile.read(reply, dtype="float32")
    assert device.rate == rate
    assert device.played == pytest.approx(written, abs=2e-4)


def test_playing_without_sounddevice_is_said_before_the_model_is_loaded(
    talk: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    result = talk("Hello.", options=("--play",), model=Path("no such model"))
    assert result == (
        1, "", "ttt-hf: error: Speaking and listening need sounddevice: pip install 'ttt-hf[sound]'.\n"
    )  # fmt: skip


def test_what_is_spoken_is_answered(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ttt_hf.processing.dialogue import Dialogue

    FakeDevice(monkeypatch)
    output = io.StringIO()
    chat = verb.Chat(Dialogue(*load_model_and_processor(str(checkpoint))), output, is_terminal=True, plays=False)
    monkeypatch.setattr("ttt_hf.cli.keys.wait_for_end_of_speech", lambda: None)
    assert chat.converse(["/listen"]) == (0, 1)
    assert output.getvalue() == "Hi.\n"
    (item,) = chat.dialogue.messages[0]["content"]
    assert len(item["codes"]) == 13  # one second, at 12.5 codes a second
