"""`ttt-hf talk`: ask a model a spoken or written question and get an answer in text and speech."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from .errors import UsageError, one_line
from .model_options import add_model_options, loading_settings
from .questions import EXAMPLE, Turn, find_dialogues
from .quiet import note


if TYPE_CHECKING:
    from ..modeling.modeling_ttt import TtTForConditionalGeneration
    from ..modeling.streamers_ttt import TtTStreamer
    from ..processing.dialogue import Dialogue
    from ..processing.processing_ttt import Reply, TtTProcessor
    from .streaming import AnswerWriter

TASKS = {
    "chat": "answer a question, spoken or written, in text and speech",
    "asr": "transcribe speech",
    "tts": "read --text aloud",
    "text": "answer --text in text alone",
}
FINISH_NOTES = {
    "length": "the answer or its speech was cut at a length limit (--max-new-tokens, or the model's own)",
    "repetition": "the answer repeated itself and was ended: it is not to be trusted",
    "interrupted": "the answer was interrupted",
}
EXAMPLES = """examples:
  ttt-hf talk example --out reply.wav
  ttt-hf talk example --task asr
  ttt-hf talk --text "What is two plus three?" --out reply.wav --stream
  ttt-hf talk --task tts --text "The hospital is between the church and the river." --out speech.wav --json
  ttt-hf talk - --out reply.wav < speech.wav
  ttt-hf talk recordings/*.wav --out answers --json
  ttt-hf talk example --picture reply.svg
  ttt-hf talk example --follow-up-text "What is two plus three?" --follow-up more.wav --out reply.wav
Several questions are answered in one run. --out is then a folder, in which the answers are called like the questions;
one that cannot be answered is reported, and the others are. Answers to follow-ups are in reply-2.wav, reply-3.wav, ...
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "talk",
        help="ask a question, spoken or written, and get an answer in text and speech",
        description="Asks a TtT model a question. The answer's text goes to stdout, its speech to --out.",
        epilog=EXAMPLES + "tasks:\n" + "".join(f"  {task:<6}{what}\n" for task, what in TASKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "question",
        nargs="*",
        metavar="QUESTION",
        help=f"audio: a file, an address, - for standard input, or {EXAMPLE}, a recording in this package",
    )
    parser.add_argument("--text", help="the question in writing, or what to read aloud")
    for option, kind, metavar, what in (
        ("--follow-up", "audio", "QUESTION", "a further question, as audio, in the same dialogue"),
        ("--follow-up-text", "text", "TEXT", "the same in writing; both may be repeated, and keep their order"),
    ):
        parser.add_argument(
            option,
            dest="follow_up",
            action="append",
            default=[],
            type=partial(_turn, kind),
            metavar=metavar,
            help=what,
        )
    parser.add_argument("--task", choices=TASKS, default="chat", help="task (default: chat)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.wav", help="where to write the spoken answer; for several questions a folder"
    )
    parser.add_argument(
        "--model", metavar="ID", help="folder or Hub id of a model or adapter (default: the embedded checkpoint)"
    )
    add_model_options(parser)
    parser.add_argument(
        "--stream", action="store_true", help="print text as it is generated, and the time to the first audio"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="where to draw how the answer was generated, step by step: .svg or .png",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of sampling")
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="length limit of the answer, text and audio tokens"
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="temperature of the text; 0 is greedy")
    parser.add_argument("--json", action="store_true", help="print one JSON object an answer instead of the text")
    parser.set_defaults(run=run)


def _turn(kind: str, words: str) -> tuple[str, str]:
    return kind, words


def run(args: argparse.Namespace) -> None:
    """Answers the questions."""
    _check_arguments(args)
    dialogues = find_dialogues(args)
    # In order of cost: everything that can fail without the model is checked before it is loaded.
    from ..atomic_files import check_file, check_folder
    from ..loading import base_folder, find_checkpoint, find_codec
    from .quiet import load_quietly, silence

    if args.out is not None:
        (check_file if args.out.suffix.lower() == ".wav" else check_folder)(args.out)
    if args.picture is not None:
        check_file(args.picture)
        if args.picture.suffix.lower() == ".png":
            from ..processing.svg_rendering import check_rendering

            check_rendering()
    # Several are read one after the other: one that cannot be read does not keep the others from being answered.
    first = dialogues[0][0].read() if len(dialogues) == 1 else None
    folder = find_checkpoint(args.model)
    base = base_folder(folder)
    codec = find_codec(base, args.codec)
    if args.task != "text" and codec is None:
        raise FileNotFoundError(
            f"{base} has no codec, so the model can neither take in nor generate audio: put the codec that it was "
            "trained with into its sub-folder codec, name it with --codec, or use --task text."
        )
    stdout = sys.stdout  # which silence() keeps libraries away from
    with silence():
        start = time.perf_counter()
        model, processor = load_quietly(folder, codec=codec, **loading_settings(args))
        talk = _Talk(args, model, processor, stdout, len(dialogues) > 1, time.perf_counter() - start)
        for turns in dialogues:
            talk.hold(turns, first)
    if talk.num_failed:
        raise RuntimeError(f"{talk.num_failed} of {len(dialogues)} questions were not answered: see above.")


class _Talk:
    """Answers questions with a loaded model, and reports the answers."""

    def __init__(
        self,
        args: argparse.Namespace,
        model: TtTForConditionalGeneration,
        processor: TtTProcessor,
        stdout: TextIO,
        has_several: bool,
        load_seconds: float,
    ) -> None:
        self.args = args
        self.model = model
        self.processor = processor
        self.stdout = stdout
        self.has_several = has_several
        # Counted once, with the first answer.
        self.load_seconds = load_seconds
        self.num_failed = 0

    def hold(self, turns: Sequence[Turn], first: dict[str, Any] | None) -> None:
        """Holds a dialogue. One of several may fail.

        Args:
            turns: Its turns.
            first: The first question, if it has been read already.
        """
        from ..processing.dialogue import Dialogue

        dialogue = Dialogue(self.model, self.processor, self.args.task) if len(turns) > 1 else None
        try:
            for turn in turns:
                self._answer(turn, first or turn.read(), dialogue)
                first = None
        except Exception as error:
            # With a broken pipe, nobody reads the answers any more.
            if not self.has_several or isinstance(error, BrokenPipeError):
                raise
            self.num_failed += 1
            sentence = one_line(error)
            print(f"ttt-hf: error: {turn.words}: {sentence}", file=sys.stderr, flush=True)
            if self.args.json:
                self._print_json({"question": turn.words, "error": sentence})

    def _answer(self, turn: Turn, content: dict[str, Any], dialogue: Dialogue | None) -> None:
        """Answers a question; its WAV file gets its final name only if nothing has failed."""
        from ..codecs import output_sampling_rate
        from .audio_output import wav_writer
        from .streaming import AnswerWriter

        if turn.out is not None:
            turn.out.parent.mkdir(parents=True, exist_ok=True)
        label = f"{turn.words}: " if self.has_several else ""
        seconds, self.load_seconds = {"load": self.load_seconds}, 0.0
        with ExitStack() as files:
            writer = None
            if self.args.stream:
                codec = self.processor.codec
                rate = output_sampling_rate(codec.config) if codec is not None else 0
                # With --json, stdout is for the objects alone.
                writer = AnswerWriter(files, turn.out, rate, None if self.args.json else self.stdout, label)
            if dialogue is None:
                reply, num_forward_passes = self._generate(content, writer, seconds)
            else:
                reply, num_forward_passes = self._respond(dialogue, content, writer, seconds)
            if writer is None and turn.out is not None and len(reply.audio):
                files.enter_context(wav_writer(turn.out, reply.sampling_rate))(reply.audio)
        if self.args.json:
            self._print_json(_json_answer(turn, reply, num_forward_passes, seconds))
        elif writer is None:
            print(f"{label}{reply.text}", file=self.stdout, flush=True)
        _report(label, turn.out, reply)

    def _generate(
        self, content: dict[str, Any], writer: AnswerWriter | None, seconds: dict[str, float]
    ) -> tuple[Reply, int]:
        """Answers a single question; returns the reply and the number of forwards, and adds to the seconds."""
        from ..atomic_files import atomic_write
        from ..processing.reply_pictures import picture_reply
        from .streaming import AnswerStreamer, RecordingStreamer

        start = time.perf_counter()
        inputs = _encode(content, self.args.task, self.model, self.processor)
        seconds["encode"] = time.perf_counter() - start

        streamer: TtTStreamer | None = AnswerStreamer(self.processor, writer) if writer is not None else None
        if self.args.picture is not None:
            streamer = RecordingStreamer(streamer)
        start = time.perf_counter()
        out = self.model.generate(
            **inputs,
            **_generation_arguments(self.args, self.model, inputs["input_ids"].shape[1]),
            streamer=streamer,
            return_dict_in_generate=True,
        )
        seconds["generate"] = time.perf_counter() - start

        start = time.perf_counter()
        # When streaming, too: the report needs the segments and the length of the audio.
        reply = self.processor.decode_reply(out)
        seconds["decode"] = time.perf_counter() - start
        if isinstance(streamer, RecordingStreamer):
            picture = picture_reply(streamer.events, self.processor)
            with atomic_write(self.args.picture) as part:
                is_png = self.args.picture.suffix.lower() == ".png"
                part.write_bytes(picture.png() if is_png else picture.svg().encode())
            note(f"{picture.steps_per_second:.1f} forwards a second of speech, see {self.args.picture}")
        return reply, int(out.num_forward_passes[0])

    def _respond(
        self, dialogue: Dialogue, content: dict[str, Any], writer: AnswerWriter | None, seconds: dict[str, float]
    ) -> tuple[Reply, int]:
        """Answers a turn of a dialogue; returns as `_generate`. Its parts run together: all count as `generate`."""
        start = time.perf_counter()
        for piece in dialogue.respond([content], **_generation_arguments(self.args, self.model, 0)):
            if writer is None:
                continue
            if isinstance(piece, str):
                writer.put_text(piece)
            else:
                writer.put_audio(piece)
        if writer is not None:
            writer.put_text("\n")
        seconds["generate"] = time.perf_counter() - start
        return cast("Reply", dialogue.reply), dialogue.num_forward_passes

    def _print_json(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer, ensure_ascii=False), file=self.stdout, flush=True)


def _check_arguments(args: argparse.Namespace) -> None:
    # Both are given, or neither.
    if bool(args.question) == (args.text is not None):
        raise UsageError("Give either QUESTION, an audio file, or --text.")
    if args.text is not None and not args.text.strip():
        raise UsageError("--text is empty.")
    if args.task == "asr" and not args.question:
        raise UsageError("--task asr needs QUESTION, an audio file.")
    if args.task in ("tts", "text") and args.text is None:
        raise UsageError(f"--task {args.task} needs --text.")
    if args.follow_up and args.task not in ("chat", "text"):
        raise UsageError(f"--task {args.task} is no dialogue: --follow-up needs --task chat or text.")
    if args.follow_up and len(args.question) > 1:
        raise UsageError("--follow-up goes on with one question: give one QUESTION.")
    if any(kind == "text" and not words.strip() for kind, words in args.follow_up):
        raise UsageError("--follow-up-text is empty.")
    if args.task == "text" and any(kind == "audio" for kind, _ in args.follow_up):
        raise UsageError("--task text takes no audio: use --follow-up-text.")
    if args.picture is not None and (len(args.question) > 1 or args.follow_up):
        raise UsageError("--picture draws one answer: give one QUESTION and no --follow-up.")
    if args.picture is not None and args.picture.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"--picture writes SVG or PNG: {args.picture} must end in .svg or .png.")
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens must be at least 1, not {args.max_new_tokens}.")
    # Written so that NaN is refused, too.
    if args.temperature is not None and not 0 <= args.temperature < float("inf"):
        raise UsageError(f"--temperature must be 0 or more, not {args.temperature}.")
    if args.seed is not None and not 0 <= args.seed < 2**63:
        raise UsageError(f"--seed must be 0 or more and below 2^63, not {args.seed}.")


def _encode(
    content: dict[str, Any], task: str, model: TtTForConditionalGeneration, processor: TtTProcessor
) -> dict[str, Any]:
    limit = model.config.get_text_config().max_position_embeddings
    if content["type"] == "audio":
        # Before the codec runs, which would take long on an input that is refused anyway.
        seconds = len(content["audio"]) / content["sampling_rate"]
        rate = processor.codec.config.frame_rate
        # Each frame is one token.
        if seconds * rate >= limit:
            raise ValueError(
                f"The question is too long: {seconds:.0f} s, and at most {limit / rate:.0f} s fit into the model's "
                "context. Cut it."
            )
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [content]}], task=task, add_generation_prompt=True
    )
    length = inputs["input_ids"].shape[1]
    # Only now is the number of tokens known, with those of the template.
    if length >= limit:
        raise ValueError(
            f"The question is too long: {length} tokens, and the model reads less than {limit}. Shorten it."
        )
    return inputs.to(model.device)


def _generation_arguments(args: argparse.Namespace, model: TtTForConditionalGeneration, length: int) -> dict[str, Any]:
    # Positions that are left for the answer; whatever was asked for, it cannot be longer.
    limit = model.config.get_text_config().max_position_embeddings - length
    wanted = args.max_new_tokens or model.generation_config.max_new_tokens or limit
    arguments: dict[str, Any] = {"max_new_tokens": min(wanted, limit)}
    if args.seed is not None:
        arguments["seed"] = args.seed
    if args.temperature is not None:
        # Greedy decoding is do_sample=False; sampling needs a temperature above 0.
        arguments["do_sample"] = args.temperature > 0
        if args.temperature > 0:
            arguments["temperature"] = args.temperature
    return arguments


def _json_answer(turn: Turn, reply: Reply, num_forward_passes: int, seconds: dict[str, float]) -> dict[str, Any]:
    return {
        "question": turn.words,
        "text": reply.text,
        "audio": str(turn.out) if turn.out is not None and len(reply.audio) else None,
        "audio_seconds": _rounded(_audio_seconds(reply)),
        "sampling_rate": reply.sampling_rate,
        "segments": [
            # Codes are a tensor, which JSON cannot hold.
            {key: _rounded(value) for key, value in segment.items() if key != "codes"}
            for segment in reply.segments
        ],
        "finish_reason": reply.finish_reason,
        "num_forward_passes": num_forward_passes,
        "seconds": {part: _rounded(value) for part, value in seconds.items()},
    }


def _report(label: str, out: Path | None, reply: Reply) -> None:
    """Says on stderr what the user should know of an answer."""
    from ..evaluation.scoring.checks import is_repetition_loop

    reason = reply.finish_reason
    if reason is not None and reason != "stop":
        note(label + FINISH_NOTES.get(reason, f"the answer did not end by itself: {reason}"))
    if reason != "repetition" and is_repetition_loop(reply.text):
        note(f"{label}the answer repeats itself in a loop: it is not to be trusted, another --seed or --temperature "
             "may help")  # fmt: skip
    if out is not None and not len(reply.audio):
        note(f"{label}the answer has no speech, {out} was not written")
    elif out is not None:
        note(f"{label}{_audio_seconds(reply):.1f} s of speech in {out}")
    elif len(reply.audio):
        note(f"{label}the answer has {_audio_seconds(reply):.1f} s of speech, --out FILE.wav keeps it")


def _audio_seconds(reply: Reply) -> float:
    return len(reply.audio) / reply.sampling_rate if len(reply.audio) else 0.0


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
