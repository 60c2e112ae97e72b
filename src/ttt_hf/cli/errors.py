"""The border of the command line: errors become one line and an exit code, signals become interruptions."""

from __future__ import annotations

import codecs
import errno
import os
import select
import signal
import sys
import threading
import traceback
from typing import Any

from ..memory import is_out_of_memory


EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SIGNAL = 128  # and the number of the signal, as shells have it
# Errors whose messages are written for users; any other is shown with its type.
EXPECTED_ERRORS = (OSError, ValueError, RuntimeError, ImportError, FloatingPointError)
NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
INSIST_SECONDS = 0.1
MAX_LENGTH = 2000  # characters of a message
# Ctrl-C, what schedulers send before they kill, and what a terminal sends that is closed.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class UsageError(Exception):
    """The arguments do not fit together; exit code 2."""


class Interruptions:
    """Within this block, signals that ask the process to end raise `KeyboardInterrupt`, so that files are cleaned up.

    Signals that the caller handles or ignores, as `nohup` does, are left alone.

    Attributes:
        received: Number of the last signal; `None` before.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._process = os.getpid()
        self._is_over = False
        self._previous: dict[int, Any] = {}
        self._hook = sys.unraisablehook

    def __enter__(self) -> Interruptions:
        # Python lets only the main thread install handlers.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._previous[number] = signal.signal(number, self._interrupt)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._ignore
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if sys.unraisablehook == self._ignore:
            sys.unraisablehook = self._hook

    def end(self) -> None:
        """From now on nothing is interrupted: the command is over, and has only to say how it ended."""
        self._is_over = True
        if self.received and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ignore(self, lost: Any) -> None:
        """Prints no traceback of an interruption in a finalizer, where Python ignores it: `_insist` repeats it."""
        if not (self.received and issubclass(lost.exc_type, KeyboardInterrupt)):
            self._hook(lost)

    def _interrupt(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a forked worker, which has nothing to clean up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self._is_ending(frame):
            return
        self.received = number
        # Schedulers repeat their signal, which must not interrupt the cleanup; a second Ctrl-C is meant to.
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)
        from multiprocessing import active_children

        # A terminal interrupts workers, too; with `kill`, the cleanup would wait for what they are doing.
        for worker in active_children():
            worker.terminate()
        if hasattr(signal, "setitimer"):
            self._previous.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, self._insist))
            signal.setitimer(signal.ITIMER_REAL, INSIST_SECONDS, INSIST_SECONDS)
            # There it would be printed and lost; the timer comes when the callback is over.
            if _is_in_callback(frame):
                return
        raise KeyboardInterrupt(number)

    def _insist(self, number: int, frame: Any) -> None:
        """Raises again where the interruption is lost: Python ignores exceptions in callbacks of libraries in C."""
        error = sys.exc_info()[1]
        while error is not None and not isinstance(error, KeyboardInterrupt):
            error = error.__context__
        # An interruption that is being handled, or whose cleanup is running, is not lost.
        if error is None and not _is_in_callback(frame) and not self._is_ending(frame):
            raise KeyboardInterrupt(self.received)

    def _is_ending(self, frame: Any) -> bool:
        # Python may call a handler before the first line of a method.
        ends = (Interruptions.end.__code__, Interruptions.__exit__.__code__)
        return self._is_over or (frame is not None and frame.f_code in ends)


def _is_in_callback(frame: Any) -> bool:
    """Whether soundfile, in C, has called back to read or write a file."""
    while frame is not None and not frame.f_code.co_name.startswith("vio_"):
        frame = frame.f_back
    return frame is not None


def prepare_output() -> None:
    """Makes stdout and stderr take every character, and refuses a stdout that is closed."""
    codecs.register_error("escape", _escape)
    if sys.stderr is None:
        # Or messages would go to stdout: print() takes file=None for it.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, open until the process ends
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        raise OSError("stdout is closed, so that the result cannot be printed: leave it open, or write >/dev/null.")
    for stream in (sys.stdout, sys.stderr):
        # Text of a model or a file name may hold characters that the terminal's encoding has not.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="escape")


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Writes characters that cannot be encoded as JSON does, `\\u00e9`, so that JSON stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)), error.end


def report(error: BaseException, interruptions: Interruptions, verbose: bool) -> int:
    """Prints an error on stderr.

    Args:
        error: What ended the command.
        interruptions: Those of the command: a library may have turned one into an error of its own.
        verbose: Whether to print the traceback, too.

    Returns:
        The exit code.
    """
    interruptions.end()
    is_for_nobody = isinstance(error, BrokenPipeError) and _is_reader_gone()
    _drop_output()
    if is_for_nobody:
        return EXIT_SIGNAL + 13  # SIGPIPE: `ttt-hf ... | head` is no failure to speak of
    if isinstance(error, KeyboardInterrupt) or interruptions.received:
        # The training handles signals itself and passes the number on.
        number = interruptions.received or next(iter(error.args), signal.SIGINT)
        name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        _print(f"ttt-hf: interrupted{name}")
        return EXIT_SIGNAL + number
    print_error(error, verbose)
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED


def print_error(error: BaseException, verbose: bool) -> None:
    """Prints an error on stderr in one line, after its traceback if `verbose`."""
    if verbose and not isinstance(error, UsageError):
        _print("".join(traceback.format_exception(error)).rstrip())
    _print(f"ttt-hf: error: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """The message of an error, without line breaks and with a remedy where the message has none."""
    return shorten(_message(error))


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"{error.filename or 'The output'}: {error.strerror}. Free some space and run the same command again."
    # Raised by the system: str(error) would begin with the error number.
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if is_out_of_memory(error):
        return "There is not enough memory: close other programs, or take a smaller model or a shorter question."
    if isinstance(error, RecursionError):
        return "A file of the model or of the data is nested too deeply to be read: fetch or write it again."
    if isinstance(error, UnicodeEncodeError):
        return f"A text holds characters that cannot be written ({error.reason}): correct it where it comes from."
    message = shorten(str(error))
    if not message or not isinstance(error, (*EXPECTED_ERRORS, UsageError)):
        return f"Unexpected {type(error).__name__}: {message} (ttt-hf --verbose shows where)"
    return message


def shorten(message: str) -> str:
    """A message in one line: some libraries write paragraphs or tables, or quote a whole file."""
    message = " ".join(message.split())
    if len(message) > MAX_LENGTH:
        message = f"{message[: MAX_LENGTH // 2]} ... {message[-MAX_LENGTH // 2 :]}"
    return message


def _is_reader_gone() -> bool:
    """Whether stdout is a pipe that nobody reads any more; where the system cannot tell, it counts as one."""
    try:
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poller.poll(0))
    except (AttributeError, OSError):
        return True


def _drop_output() -> None:
    """Drops what was printed and cannot be written, or it would fail again when Python exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(message: str) -> None:
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        # stderr is closed, as of a terminal that is gone: the exit code remains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
