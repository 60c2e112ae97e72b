"""Entry point of `ttt-hf`: parses the arguments, runs the verb, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from . import convert, demo, encode, eval, info, push_model, serve, talk, terminal_chat, train
from .errors import EXIT_USAGE, Interruptions, prepare_output, report, shorten
from .quiet import NORMAL, QUIET, VERBOSE, output_level


EPILOG = """example:
  ttt-hf talk example --out reply.wav

Completion in bash and zsh: pip install 'ttt-hf[completion]', then eval "$(register-python-argcomplete ttt-hf)"
"""


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors, `~` in paths, and lists of words between and after options."""

    _is_intermixing = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # For arguments of `type=Path`: shells leave the ~ in --out=~/reply.wav as it is.
        self.register("type", Path, lambda text: Path(text).expanduser())
        # Before the verb and after it: the last one counts.
        group = self.add_mutually_exclusive_group()
        for option, level, text in (
            ("quiet", QUIET, "print nothing but the result and errors"),
            ("verbose", VERBOSE, "print the messages of libraries, and the traceback of an error"),
        ):
            group.add_argument(
                f"-{option[0]}",
                f"--{option}",
                action="store_const",
                const=level,
                dest="level",
                default=argparse.SUPPRESS,
                help=text,
            )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._is_intermixing:
            return super().parse_known_args(args, namespace)
        # argparse itself ends a list of words at the first option: `eval run tiny --out scores path=data` would fail.
        has_list = any(action.nargs in ("+", "*") for action in self._get_positional_actions())
        parse = self.parse_known_intermixed_args if has_list else super().parse_known_args
        self._is_intermixing = True  # parse_known_intermixed_args calls this method again
        try:
            namespace, unknown = parse(args, namespace)
        finally:
            self._is_intermixing = False
        # Here, and not in the parser above, which would name its own help.
        if unknown and self.is_verb:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    @property
    def is_verb(self) -> bool:
        """Whether this is the parser of a verb, and not of the whole command line."""
        return " " in self.prog

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"ttt-hf: error: {shorten(message)} ({self.prog} --help explains)\n")


def build_parser() -> Parser:
    """Builds the parser of the command line."""
    parser = Parser(
        prog="ttt-hf",
        description="Talk to, train and evaluate TtT models (autoregressive text, diffused speech).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    talk.add_parser(verbs)
    terminal_chat.add_parser(verbs)
    serve.add_parser(verbs)
    demo.add_parser(verbs)
    encode.add_parser(verbs)
    train.add_parser(verbs)
    eval.add_parser(verbs)
    convert.add_parser(verbs)
    push_model.add_parser(verbs)
    info.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        Exit code: 0, 1 if the verb failed, 2 if the arguments do not fit together, 128 and the number of the signal
        if it was interrupted (Ctrl-C: 130, SIGTERM: 143) or if the reader of its output is gone (141).

    Raises:
        SystemExit: With code 2 for arguments that cannot be read, 0 for `--help` and `--version`.
    """
    with Interruptions() as interruptions:
        level = NORMAL
        try:
            prepare_output()
            try:
                parser = build_parser()
                # Set by the shell while it completes a word.
                if "_ARGCOMPLETE" in os.environ:
                    import argcomplete

                    argcomplete.autocomplete(parser)
                args = parser.parse_args(argv)
                level = getattr(args, "level", NORMAL)
                with output_level(level):
                    args.run(args)
            except SystemExit:  # help has been printed
                sys.stdout.flush()
                raise
            # Within the outer try: a closed pipe or a full disk may show only when the buffer is written.
            sys.stdout.flush()
        except SystemExit:
            raise
        # Errors of libraries in Rust derive from BaseException.
        except BaseException as error:
            return report(error, interruptions, verbose=level == VERBOSE)
    return 0
