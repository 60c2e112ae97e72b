"""`ttt-hf talk`: ask a model a spoken or written question and get an answer in text and speech."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..loading import DTYPES
from .errors import UsageError
from .quiet import note


if TYPE_CHECKING:
    from ..modeling.modeling_ttt import TtTForConditionalGeneration
    from ..processing.processing_ttt import Reply, TtTProcessor

TASKS = {
    "chat": "answer a question, spoken or written, in text and speech",
    "asr": "transcribe speech",
    "tts": "read --text aloud",
    "text": "answer --text in text alone",
}
FINISH_NOTES = {
    "length": "the answer or its speech was cut at a length limit (--max-new-tokens, or the model's own)",
    "interrupted": "the answer was interrupted",
}
# A QUESTION that needs no file: the recording comes with the package.
EXAMPLE = "example"
EXAMPLE_QUESTION = Path(__file__).parents[1] / "evaluation" / "tiny_set" / "audio" / "wording-kinds-29-joe-normal.ogg"
EXAMPLES = """examples:
  ttt-hf talk example --out reply.wav
  ttt-hf talk example --task asr
  ttt-hf talk --text "What is two plus three?" --out reply.wav --stream
  ttt-hf talk --task tts --text "The hospital is between the church and the river." --out speech.wav --json
  ttt-hf talk - --out reply.wav < speech.wav
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
        nargs="?",
        metavar="QUESTION",
        help=f"audio: a file, an address, - for standard input, or {EXAMPLE}, a recording in this package",
    )
    parser.add_argument("--text", help="the question in writing, or what to read aloud")
    parser.add_argument("--task", choices=TASKS, default="chat", help="task (default: chat)")
    parser.add_argument("--out", type=Path, metavar="FILE.wav", help="where to write the spoken answer")
    parser.add_argument(
        "--model", metavar="ID", help="folder or Hub id of a model or adapter (default: the embedded checkpoint)"
    )
    parser.add_argument(
        "--codec", metavar="ID", help="folder, Hub id or short name of a codec to use instead of the model's own"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="data type of the weights (default: float32 on a CPU, as "
                        "stored on a GPU)")  # fmt: skip
    parser.add_argument("--bits", type=int, choices=(8, 4), help="quantise the weights: quicker on a CPU (8), smaller "
                        "on a GPU (8 or 4, with bitsandbytes)")  # fmt: skip
    parser.add_argument("--spread", action="store_true", help="spread a model that is too large for one GPU over all, "
                        "and over the CPU's memory")  # fmt: skip
    parser.add_argument(
        "--stream", action="store_true", help="print text as it is generated, and the time to the first audio"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of sampling")
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="length limit of the answer, text and audio tokens"
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="temperature of the text; 0 is greedy")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Answers one question."""
    _check_arguments(args)
    # In order of cost: everything that can fail without the model is checked before it is loaded.
    from ..atomic_files import check_file
    from ..loading import base_folder, find_checkpoint, find_codec
    from ..processing.audio import read_audio
    from .audio_output import wav_writer
    from .quiet import load_quietly, silence

    if args.out is not None:
        check_file(args.out)
    content: dict[str, Any] = {"type": "text", "text": args.text}
    if args.question is not None:
        samples, rate = read_audio(_find_question(args.question))
        content = {"type": "audio", "audio": samples, "sampling_rate": rate}
    folder = find_checkpoint(args.model)
    base = base_folder(folder)
    codec = find_codec(base, args.codec)
    if args.task != "text" and codec is None:
        raise FileNotFoundError(
            f"{base} has no codec, so the model can neither take in nor generate audio: put the codec that it was "
            "trained with into its sub-folder codec, name it with --codec, or use --task text."
        )

    seconds = {}
    stdout = sys.stdout  # which silence() keeps libraries away from
    with silence():
        start = time.perf_counter()
        model, processor = load_quietly(folder, codec=codec, **_loading_arguments(args))
        seconds["load"] = time.perf_counter() - start

        start = time.perf_counter()
        inputs = _encode(content, args.task, model, processor)
        seconds["encode"] = time.perf_counter() - start

        # On leaving, it closes the WAV file, which gets its final name only if nothing has failed.
        with ExitStack() as files:
            streamer = None
            if args.stream:
                from .streaming import AnswerStreamer

                # With --json, stdout is for the object alone.
                streamer = AnswerStreamer(processor, files, args.out, None if args.json else stdout)
            start = time.perf_counter()
            out = model.generate(
                **inputs,
                **_generation_arguments(args, model, inputs["input_ids"].shape[1]),
                streamer=streamer,
                return_dict_in_generate=True,
            )
            seconds["generate"] = time.perf_counter() - start

            start = time.perf_counter()
            # When streaming, too: the report needs the segments and the length of the audio.
            reply = processor.decode_reply(out)
            seconds["decode"] = time.perf_counter() - start
            if streamer is None and args.out is not None and len(reply.audio):
                files.enter_context(wav_writer(args.out, reply.sampling_rate))(reply.audio)
    _report(args, reply, out.finish_reason[0], int(out.num_forward_passes[0]), seconds)


def _check_arguments(args: argparse.Namespace) -> None:
    # Both are given, or neither.
    if (args.question is None) == (args.text is None):
        raise UsageError("Give either QUESTION, an audio file, or --text.")
    if args.text is not None and not args.text.strip():
        raise UsageError("--text is empty.")
    if args.task == "asr" and args.question is None:
        raise UsageError("--task asr needs QUESTION, an audio file.")
    if args.task in ("tts", "text") and args.text is None:
        raise UsageError(f"--task {args.task} needs --text.")
    if args.out is not None and args.out.suffix.lower() != ".wav":
        raise UsageError(f"--out writes WAV: {args.out} must end in .wav.")
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens must be at least 1, not {args.max_new_tokens}.")
    # Written so that NaN is refused, too.
    if args.temperature is not None and not 0 <= args.temperature < float("inf"):
        raise UsageError(f"--temperature must be 0 or more, not {args.temperature}.")
    if args.seed is not None and not 0 <= args.seed < 2**63:
        raise UsageError(f"--seed must be 0 or more and below 2^63, not {args.seed}.")


def _find_question(question: str) -> str:
    # A file of that name is what the user means.
    return str(EXAMPLE_QUESTION) if question == EXAMPLE and not Path(EXAMPLE).exists() else question


def _loading_arguments(args: argparse.Namespace) -> dict[str, Any]:
    return {"dtype": args.dtype, "bits": args.bits, "device_map": "auto" if args.spread else None}


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


def _report(
    args: argparse.Namespace, reply: Reply, finish_reason: str, num_forward_passes: int, seconds: dict[str, float]
) -> None:
    from ..evaluation.scoring.checks import is_repetition_loop

    audio_seconds = len(reply.audio) / reply.sampling_rate if len(reply.audio) else 0.0
    if args.json:
        written = args.out is not None and len(reply.audio) > 0
        segments = [
            # Codes are a tensor, which JSON cannot hold.
            {key: _rounded(value) for key, value in segment.items() if key != "codes"}
            for segment in reply.segments
        ]
        answer = {
            "text": reply.text,
            "audio": str(args.out) if written else None,
            "audio_seconds": _rounded(audio_seconds),
            "sampling_rate": reply.sampling_rate,
            "segments": segments,
            "finish_reason": finish_reason,
            "num_forward_passes": num_forward_passes,
            "seconds": {part: _rounded(value) for part, value in seconds.items()},
        }
        print(json.dumps(answer, ensure_ascii=False))
    elif not args.stream:
        print(reply.text)
    if finish_reason != "stop":
        note(FINISH_NOTES.get(finish_reason, f"the answer did not end by itself: {finish_reason}"))
    if is_repetition_loop(reply.text):
        note("the answer repeats itself in a loop: it is not to be trusted, another --seed or --temperature may help")
    if args.out is not None and not len(reply.audio):
        note(f"the answer has no speech, {args.out} was not written")
    elif args.out is not None:
        note(f"{audio_seconds:.1f} s of speech in {args.out}")
    elif len(reply.audio):
        note(f"the answer has {audio_seconds:.1f} s of speech, --out FILE.wav keeps it")


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
