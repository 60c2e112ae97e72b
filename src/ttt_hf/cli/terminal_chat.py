"""`ttt-hf chat`: a dialogue in the terminal, typed or spoken, or line by line through a pipe."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..names import EMBEDDED_ALIAS, EMBEDDED_NAMES
from .errors import UsageError, print_error
from .model_options import add_model_options, load_model
from .questions import EXAMPLE, STDIN, Turn
from .quiet import is_verbose, note
from .talk import TASKS


if TYPE_CHECKING:
    import numpy as np

    from ..processing.dialogue import Dialogue
    from .sound import Player

# In these a turn has nothing to do with those before it.
SINGLE_TURN_TASKS = ("asr", "tts")
HEARING_TASKS = ("chat", "asr")
READING_TASKS = ("chat", "tts", "text")
FINISH_NOTES = {
    "length": "the reply or its speech was cut at a length limit: /set max_new_tokens=N raises it",
    "repetition": "the reply repeated itself and was ended: it is not to be trusted",
    "interrupted": "the reply was interrupted",
}
COMMANDS = {
    "/audio": ("FILE", f"speak: a recording, an address, or {EXAMPLE}, a recording in this package"),
    "/listen": ("", "speak into the microphone while you hold the space bar, or until you press Enter"),
    "/save": ("FILE", "write the speech of the last reply (.wav), or the whole dialogue (.json)"),
    "/task": ("TASK", f"another task: {', '.join(TASKS)}"),
    "/system": ("[TEXT]", "another system prompt; without TEXT that of the task"),
    "/turns": ("N", "how many earlier turns the model sees; all that fit: all"),
    "/set": ("[KEY=VALUE]", "a generation key, as seed=3; null gives the model's own; alone, what is set"),
    "/clear": ("", "start anew"),
    "/help": ("", "this list"),
    "/quit": ("", "leave; so does the end of the input"),
}
EXAMPLES = """examples:
  ttt-hf chat embedded
  echo "What is two plus three?" | ttt-hf chat
  printf '/audio example\\n/save reply.wav\\n' | ttt-hf chat embedded
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "chat",
        help="talk to a model in the terminal, turn by turn",
        description="Talks to a TtT model, turn by turn: type, or speak by a command. Ctrl-C ends a reply.",
        epilog=f"{EXAMPLES}commands:\n{_help()}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        default=EMBEDDED_ALIAS,
        help="folder or Hub id of a model or adapter (default: the embedded checkpoint)",
    )
    add_model_options(parser)
    parser.add_argument("--task", choices=TASKS, default="chat", help="task (default: chat)")
    parser.add_argument("--system", metavar="TEXT", help="system prompt (default: that of the task)")
    parser.add_argument("--play", action="store_true", help="play replies (needs the extra sound)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Talks until the end of the input."""
    from ..processing.dialogue import Dialogue

    if args.play:
        from .sound import check_sound

        check_sound()
    # Libraries may print while the model loads; replies are for stdout.
    output = sys.stdout
    is_terminal = sys.stdin is not None and sys.stdin.isatty() and output.isatty()
    chat = Chat(Dialogue(*load_model(args, args.model)), output, is_terminal, args.play)
    chat.choose_task(args.task)
    chat.dialogue.system = args.system
    if args.model in EMBEDDED_NAMES:
        chat.choose_turns("0")
        note("this model was trained on single questions, so that it sees no earlier turns: /turns all shows them")
    if is_terminal:
        note("/help lists the commands, Ctrl-C ends a reply, /quit leaves")
    failed, count = chat.converse(_typed() if is_terminal else _piped())
    # Somebody who types has seen it; a script sees the exit code.
    if failed and not is_terminal:
        raise RuntimeError(f"{failed} of {count} lines could not be used, as said above: correct them.")


class Chat:
    """A dialogue with its settings, and what the commands do.

    Args:
        dialogue: The dialogue.
        output: For replies and the answers of commands.
        is_terminal: Whether somebody types.
        plays: Whether replies are played.
    """

    def __init__(self, dialogue: Dialogue, output: TextIO, is_terminal: bool, plays: bool) -> None:
        self.dialogue = dialogue
        self.output = output
        self.is_terminal = is_terminal
        self.plays = plays
        self.settings: dict[str, Any] = {}
        self._turns: int | None = None
        self._player: Player | None = None

    def converse(self, lines: Iterable[bytes | str]) -> tuple[int, int]:
        """Answers lines; an error is said and leaves the dialogue as it was.

        Returns:
            Number of lines that failed, and of all.
        """
        failed = count = 0
        for line in lines:
            count += 1
            try:
                text = _text(line).strip()
                if text in ("/quit", "/exit"):
                    break
                self._take(text)
            except BrokenPipeError:  # nobody reads the replies any more
                raise
            except Exception as error:
                failed += 1
                print_error(error, is_verbose())
        return failed, count

    def _take(self, text: str) -> None:
        if not text.startswith("/"):
            if text:
                self._say(text)
            return
        name, _, rest = text.partition(" ")
        actions: dict[str, Callable[[str], None]] = {
            "/audio": self._audio,
            "/listen": self._listen,
            "/save": self._save,
            "/task": self.choose_task,
            "/system": self._system,
            "/turns": self.choose_turns,
            "/set": self._set,
            "/clear": lambda _: self.dialogue.clear(),
            "/help": lambda _: self._print(_help()),
        }
        if name not in actions:
            raise UsageError(f"There is no command {name[:40]}: /help lists them.")
        actions[name](rest.strip())

    # -- turns --------------------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        if self.dialogue.task not in READING_TASKS:
            raise UsageError("The task asr writes down recordings: give one by /audio FILE, or choose another /task.")
        self._respond(text)

    def _audio(self, name: str) -> None:
        if not name:
            raise UsageError("/audio needs a FILE.")
        if name == STDIN:
            raise UsageError("/audio - would read the chat itself: name a file.")
        # As terminals write a file that is dropped on them: quoted.
        if not Path(name).exists() and len(words := _words(name)) == 1:
            (name,) = words
        name = str(Path(name).expanduser()) if name.startswith("~") else name
        self._check_hearing()
        self._respond([Turn("audio", name).read()])

    def _listen(self, _: str) -> None:
        from .keys import wait_for_end_of_speech
        from .sound import record

        if not self.is_terminal:
            raise UsageError("/listen needs a terminal, where Enter ends the recording: give /audio FILE.")
        self._check_hearing()
        samples, rate = record(wait_for_end_of_speech)
        self._respond([{"type": "audio", "audio": samples, "sampling_rate": rate}])

    def _check_hearing(self) -> None:
        if self.dialogue.task not in HEARING_TASKS:
            raise UsageError(f"The task {self.dialogue.task} takes text: type it, or choose another /task.")

    def _respond(self, content: str | list[dict[str, Any]]) -> None:
        """Takes a turn, and prints and plays the reply while it is generated."""
        from .quiet import silence

        has_text = False
        try:
            with self._interruptible(), silence():
                for piece in self.dialogue.respond(content, **self.settings):
                    if not isinstance(piece, str):
                        self._play(piece)
                        continue
                    # A model may begin with a space or a line break.
                    piece = piece if has_text else piece.lstrip()
                    has_text = has_text or bool(piece)
                    print(piece, end="", file=self.output, flush=True)
                print(file=self.output, flush=True)
                if self._player is not None:
                    self._player.finish()
        except BaseException:
            # What was printed of the reply shall not run into what follows.
            if has_text:
                with suppress(OSError):
                    print(file=self.output, flush=True)
            if self._player is not None:
                self._player.is_stopped = True
                self._player.finish()
            raise
        finally:
            self._player = None
        self._report()

    def _play(self, samples: np.ndarray) -> None:
        if not self.plays:
            return
        if self._player is None:
            from ..codecs import output_sampling_rate
            from .sound import Player

            self._player = Player(output_sampling_rate(self.dialogue.processor.codec.config))
        self._player.play(samples)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Within this block, the first Ctrl-C ends the reply, and the second one the command."""
        before = signal.getsignal(signal.SIGINT)

        def interrupt(*_: Any) -> None:
            signal.signal(signal.SIGINT, before)
            self.dialogue.interrupt()
            if self._player is not None:
                self._player.is_stopped = True

        # One that is ignored, as in the background of a shell, stays so.
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _report(self) -> None:
        from ..evaluation.scoring.checks import is_repetition_loop

        reply = self.dialogue.reply
        if reply is None:
            return
        if reply.finish_reason in FINISH_NOTES:
            note(FINISH_NOTES[reply.finish_reason])
        if reply.finish_reason != "repetition" and is_repetition_loop(reply.text):
            note("the reply repeats itself in a loop: it is not to be trusted, another /set seed=N may help")
        if len(reply.audio) and not self.plays:
            note(f"{len(reply.audio) / reply.sampling_rate:.1f} s of speech: /save FILE.wav keeps it")

    # -- commands -----------------------------------------------------------------------------------------------------

    def choose_task(self, task: str) -> None:
        """Takes another task, which begins without the turns of the one before."""
        if task not in TASKS:
            raise UsageError(f"There is no task {task[:40]!r}: choose one of {', '.join(TASKS)}.")
        if task != "text" and self.dialogue.processor.codec is None:
            raise UsageError(
                f"The task {task} needs a codec, and the model has none: name the one that it was trained with by "
                "--codec, or use --task text."
            )
        self.dialogue.task = task
        self.dialogue.turns = 0 if task in SINGLE_TURN_TASKS else self._turns
        self.dialogue.forget()

    def choose_turns(self, text: str) -> None:
        """Takes the number of earlier turns that the model sees."""
        if text != "all" and not (text.isdecimal() and len(text) < 10):
            raise UsageError("/turns needs a number, or all.")
        self._turns = None if text == "all" else int(text)
        if self.dialogue.task not in SINGLE_TURN_TASKS:
            self.dialogue.turns = self._turns

    def _system(self, text: str) -> None:
        self.dialogue.system = text or None

    def _set(self, text: str) -> None:
        if not text:
            self._print("\n".join(f"{key}={json.dumps(value)}" for key, value in self.settings.items()) or "nothing")
            return
        from .generation_keys import changed_settings

        self.settings = changed_settings(self.dialogue.model, self.settings, text)

    def _save(self, name: str) -> None:
        from ..atomic_files import atomic_write_text, check_file
        from .audio_output import wav_writer

        path = Path(name).expanduser()
        reply, messages = self.dialogue.reply, self.dialogue.messages
        if path.suffix.lower() not in (".wav", ".json"):
            raise UsageError("/save writes the last reply to a FILE.wav, or the dialogue to a FILE.json.")
        check_file(path)
        if path.suffix.lower() == ".json":
            if not messages:
                raise UsageError(f"Nothing has been said yet, {path} was not written.")
            atomic_write_text(path, json.dumps(messages, ensure_ascii=False, default=lambda codes: codes.tolist()))
            note(f"{len(messages) // 2} turns in {path}")
            return
        if reply is None or not len(reply.audio):
            raise UsageError(f"The last reply has no speech, {path} was not written.")
        with wav_writer(path, reply.sampling_rate) as write:
            write(reply.audio)
        note(f"{len(reply.audio) / reply.sampling_rate:.1f} s of speech in {path}")

    def _print(self, text: str) -> None:
        print(text, file=self.output, flush=True)


def _help() -> str:
    return "\n".join(f"  {f'{name} {arguments}':<18}{what}" for name, (arguments, what) in COMMANDS.items())


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quotation mark without its other half is part of a name
        return [text]


def _typed() -> Iterator[str]:
    """Lines that somebody types, with history and completion where Python has readline."""
    with suppress(ImportError):
        import readline

        def complete(text: str, state: int) -> str | None:
            found = [f"{name} " for name in COMMANDS if name.startswith(text) and readline.get_begidx() == 0]
            return found[state] if state < len(found) else None

        readline.set_completer(complete)
        readline.set_completer_delims(" ")
        readline.parse_and_bind("tab: complete")
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()  # what is said next shall not run into the prompt
            raise


def _piped() -> Iterator[bytes]:
    """Lines of standard input, which may be closed."""
    if sys.stdin is not None:
        yield from sys.stdin.buffer


def _text(line: bytes | str) -> str:
    try:
        return line.decode("utf-8") if isinstance(line, bytes) else line
    except UnicodeDecodeError:
        raise ValueError("A line is not text in UTF-8: convert the input.") from None
