"""The frame of the command line: help, usage errors, one-line errors, exit codes, a quick start."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ttt_hf
from ttt_hf.cli import talk
from ttt_hf.cli.errors import SIGNALS, Interruptions, UsageError, one_line, report
from ttt_hf.cli.main import build_parser


def test_help_has_examples(run: Callable) -> None:
    assert "ttt-hf talk" in run("--help").out
    for verb in ("talk", "info"):
        result = run(verb, "--help")
        assert result.code == 0
        assert f"examples:\n  ttt-hf {verb}" in result.out
        assert "--json" in result.out


def test_version(run: Callable) -> None:
    assert run("--version").out == f"ttt-hf {ttt_hf.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "VERB"),
        (["sing"], "invalid choice: 'sing'"),
        (["talk"], "Give either QUESTION, an audio file, or --text."),
        (["talk", "question.wav", "--text", "Hello!"], "Give either QUESTION, an audio file, or --text."),
        (["talk", "--text", " "], "--text is empty"),
        (["talk", "--text", "Hello!", "--task", "asr"], "--task asr needs QUESTION"),
        (["talk", "question.wav", "--task", "tts"], "--task tts needs --text"),
        (["talk", "question.wav", "--task", "text"], "--task text needs --text"),
        (["talk", "question.wav", "--task", "sing"], "invalid choice: 'sing'"),
        (["talk", "question.wav", "--out", "reply.mp3"], "reply.mp3 must end in .wav"),
        (["talk", "question.wav", "--max-new-tokens", "0"], "--max-new-tokens must be at least 1"),
        (["talk", "question.wav", "--max-new-tokens", "many"], "invalid int value: 'many'"),
        (["talk", "question.wav", "--temperature", "-1"], "--temperature must be 0 or more"),
        (["talk", "question.wav", "--temperature", "nan"], "--temperature must be 0 or more"),
        (["talk", "question.wav", "--seed", "-1"], "--seed must be 0 or more"),
        (["talk", "question.wav", "--loud"], "unrecognized arguments: --loud"),
    ],
)
def test_usage_errors(run: Callable, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert result.err.startswith("ttt-hf: error: ")
    assert result.err.count("\n") == 1
    assert message in result.err
    assert not result.out


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("two\n  lines"), 1, "two lines"),
        (KeyError("vocab"), 1, "Unexpected KeyError: 'vocab' (ttt-hf --verbose shows where)"),
        (OSError(28, "No space left on device", "reply.wav"), 1, "reply.wav: No space left on device. Free"),
        (OSError(2, "No such file or directory", ""), 1, ": No such file or directory."),
        (MemoryError(), 1, "There is not enough memory: close other programs"),
        (RecursionError("maximum recursion depth exceeded"), 1, "A file of the model or of the data is nested too"),
        (
            UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates not allowed"),
            1,
            "A text holds characters that cannot",
        ),
        (RuntimeError("x" * 100_000), 1, "xxx"),
        (type("PanicException", (BaseException,), {})("called unwrap()"), 1, "Unexpected PanicException: called"),
        (UsageError("so not"), 2, "so not"),
    ],
)
def test_errors_are_one_line(
    run: Callable, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    assert line in one_line(error)

    def fail(arguments: object) -> None:
        raise error

    monkeypatch.setattr(talk, "run", fail)
    result = run("talk", "question.wav")
    assert result.code == code
    assert result.err.startswith(f"ttt-hf: error: {line}")
    assert result.err.count("\n") == 1
    assert len(result.err) < 5000


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGINT, "interrupted"),
        (signal.SIGTERM, "interrupted by SIGTERM"),
        (signal.SIGHUP, "interrupted by SIGHUP"),
    ],
)
@pytest.mark.parametrize("is_swallowed", [False, True])
def test_signals_end_a_verb_like_ctrl_c(
    run: Callable, monkeypatch: pytest.MonkeyPatch, number: int, message: str, is_swallowed: bool
) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    def work(arguments: object) -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        except KeyboardInterrupt as error:
            if is_swallowed:  # as by libraries in C that call back
                raise ValueError("the question is not audio") from error
            raise

    monkeypatch.setattr(talk, "run", work)
    assert run("talk", "question.wav") == (128 + number, "", f"ttt-hf: {message}\n")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_an_interruption_that_a_library_loses_is_repeated(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """soundfile reads files through a callback, in which Python ignores exceptions: `eval` went on to its end."""

    def work(arguments: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        pytest.fail("the signal was lost")

    monkeypatch.setattr(talk, "run", work)
    start = time.monotonic()
    assert run("talk", "question.wav") == (143, "", "ttt-hf: interrupted by SIGTERM\n")
    assert time.monotonic() - start < 10


def test_an_interruption_in_a_finalizer_prints_no_traceback(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: printed.append(lost.exc_type))

    class Resource:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    class Faulty:
        def __del__(self) -> None:
            raise ValueError

    def work(arguments: object) -> None:
        del arguments
        Faulty()
        Resource()
        time.sleep(5)
        pytest.fail("the signal was lost")

    monkeypatch.setattr(talk, "run", work)
    assert run("talk", "question.wav") == (143, "", "ttt-hf: interrupted by SIGTERM\n")
    assert printed == [ValueError]


def test_an_interruption_waits_for_a_callback(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one of soundfile's it would be printed with its traceback, and ignored."""
    finished = []

    def vio_read() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        finished.append(True)

    def work(arguments: object) -> None:
        vio_read()
        time.sleep(30)

    monkeypatch.setattr(talk, "run", work)
    assert run("talk", "question.wav") == (143, "", "ttt-hf: interrupted by SIGTERM\n")
    assert finished == [True]


def test_a_command_that_has_said_how_it_ended_is_not_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    """On a busy machine the interruption was repeated between the message and the end: a traceback, another code."""
    with Interruptions() as interruptions:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt as error:
            code = report(error, interruptions, verbose=False)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)
    assert (code, capsys.readouterr().err) == (143, "ttt-hf: interrupted by SIGTERM\n")


def test_a_cleanup_is_not_interrupted(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned = []

    @contextlib.contextmanager
    def files() -> Iterator[None]:
        try:
            yield
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # schedulers repeat their signal
            time.sleep(1.5)
            cleaned.append(True)

    def work(arguments: object) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(files())
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(talk, "run", work)
    assert run("talk", "question.wav") == (143, "", "ttt-hf: interrupted by SIGTERM\n")
    assert cleaned == [True]


def test_ignored_signals_stay_ignored(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under `nohup`."""
    monkeypatch.setattr(talk, "run", lambda arguments: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run("talk", "question.wav").code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        ("| true", 141, ""),
        (">&-", 1, "ttt-hf: error: stdout is closed, so that the result cannot be printed: leave it open, or write "
                   ">/dev/null.\n"),
        (">/dev/full", 1, "ttt-hf: error: The output: No space left on device. Free some space and run the same "
                          "command again.\n"),
        ("2>&-", 0, ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("words", ["eval tasks --json", "talk --help"])
def test_output_that_cannot_be_written(words: str, redirection: str, code: int, message: str, tmp_path: Path) -> None:
    # The pause is for `true`, which must have ended when something is written.
    program = f"import sys, time; sys.argv = ['ttt-hf', *{words.split()}]\nfrom ttt_hf.cli.main import main\n"
    program += "time.sleep(0.5)\nsys.exit(main())"
    command = f'"$0" -c "$1" {redirection}; exit ${{PIPESTATUS[0]}}'
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    result = subprocess.run(
        ["bash", "-c", command, sys.executable, program],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (code, message)


def test_characters_that_the_terminal_has_not(tmp_path: Path) -> None:
    program = (
        "import sys, json; sys.argv = ['ttt-hf', 'talk', 'question.wav']\n"
        "from ttt_hf.cli import main, talk\n"
        "talk.run = lambda args: print(json.dumps('é \\udc80 😀', ensure_ascii=False))\n"
        "sys.exit(main.main())"
    )
    for encoding in ("ascii", "latin-1", "utf-8"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
        assert (result.returncode, result.stderr) == (0, b"")
        assert json.loads(result.stdout.decode(encoding)) == "é \udc80 😀"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["talk", "--help"], 0),
        (["encode", "--help"], 0),
        (["train", "--help"], 0),
        (["info", "--help"], 0),
        (["convert", "--help"], 0),
        *((["convert", kind, "--help"], 0) for kind in ("official", "glm4voice", "from-text")),
        (["talk"], 2),
        (["talk", "missing.wav"], 1),
        (["talk", "--text", "Hello", "--model", "./missing"], 1),
        (["info", "./missing"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nothing_heavy_is_imported_for_it(arguments: list[str], code: int, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.argv = {['ttt-hf', *arguments]!r}\n"
        "from ttt_hf.cli.main import main\n"
        "try: code = main()\n"
        "except SystemExit as stop: code = stop.code or 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'huggingface_hub', 'tokenizers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    assert "imported" not in result.stderr


def test_home_folder_in_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (["talk", "--text", "Hello", "--out=~/a"], ["encode", "rows", "--out=~/a"]):
        assert build_parser().parse_args(words).out == tmp_path / "a"
    assert build_parser().parse_args(["convert", "official", "model", "~/a"]).out == tmp_path / "a"


@pytest.mark.parametrize("module", ["ttt_hf", "ttt_hf.cli"])
def test_module_is_the_command(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", module, "talk", "missing.wav", "--out", "reply.wav"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert [line for line in lines if not line.startswith("import time:")] == [
        "ttt-hf: error: There is no audio file missing.wav."
    ]
    assert not any(line.endswith(" torch") for line in lines), "errors do not wait for torch"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "program"),
    [
        ("--loud", "ttt-hf"),
        ("--loud talk question.wav", "ttt-hf"),
        ("talk question.wav --loud", "ttt-hf talk"),
        ("talk --loud --text Hello", "ttt-hf talk"),
        ("encode rows --out codes --loud", "ttt-hf encode"),
        ("train lora_asr --loud lora_rank=2", "ttt-hf train"),
        ("eval --loud", "ttt-hf eval"),
        ("eval run tiny --out scores --loud path=rows", "ttt-hf eval run"),
        ("eval score scores --loud", "ttt-hf eval score"),
        ("convert official a b --loud", "ttt-hf convert official"),
        ("info --loud", "ttt-hf info"),
    ],
)
def test_unknown_options_name_the_help_that_knows_better(run: Callable, words: str, program: str) -> None:
    result = run(*words.split())
    assert result.code == 2
    assert result.err.startswith("ttt-hf: error: ")
    assert result.err.endswith(f" ({program} --help explains)\n")
    assert result.err.count("\n") == 1


# -- how much is said ------------------------------------------------------------------------------


def test_verbose_adds_the_traceback(run: Callable) -> None:
    for words in (
        ["--verbose", "talk", "missing.wav"],
        ["talk", "missing.wav", "-v"],
        ["-q", "talk", "missing.wav", "-v"],
    ):
        result = run(*words)
        assert result.code == 1
        assert result.err.startswith("Traceback (most recent call last):\n")
        assert result.err.endswith("\nttt-hf: error: There is no audio file missing.wav.\n")
    # Where a mistake in the arguments was found is of no use.
    assert run("talk", "-v").err.count("\n") == 1


def test_quiet_leaves_errors(run: Callable, checkpoint: Path) -> None:
    words = ["talk", "--text", "Hello", "--model", checkpoint]
    assert "ttt-hf: the answer has " in run(*words).err
    assert run(*words, "--quiet") == (0, "Hi.\n", "")
    assert run("--quiet", *words) == (0, "Hi.\n", "")
    assert run("--quiet", "talk", "missing.wav").err == "ttt-hf: error: There is no audio file missing.wav.\n"
    result = run("talk", "--text", "Hello", "--quiet", "--verbose")
    assert result.code == 2 and "not allowed with argument" in result.err


def test_a_command_leaves_the_environment_as_it_was(run: Callable, checkpoint: Path) -> None:
    before = dict(os.environ)
    run("talk", "--text", "Hello", "--model", checkpoint, "--quiet")
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("ttt-hf ta", {"talk "}),
        ("ttt-hf ch", {"chat "}),
        ("ttt-hf talk --task ", {"chat", "asr", "tts", "text"}),
        ("ttt-hf eval pu", {"push "}),
    ],
)
def test_completion(line: str, wanted: set[str], tmp_path: Path) -> None:
    pytest.importorskip("argcomplete", reason="the extra completion is not installed")
    found = tmp_path / "found"
    variables = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(found)}
    variables |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    subprocess.run([sys.executable, "-m", "ttt_hf"], env={**os.environ, **variables}, check=True)
    assert set(found.read_text().split("\n")) == wanted
