"""`ttt-hf encode`: encodes the audio of a data set once, so that training reads codes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from .errors import UsageError


TASKS = {
    "asr": "columns audio and text: the model transcribes",
    "tts": "columns audio and text: the model reads aloud",
    "chat": "columns question or question_audio, answer, answer_audio",
}
EXAMPLES = """examples:
  ttt-hf encode recordings/ --task asr --out encoded
  ttt-hf encode recordings/ --task asr --out varied --variants 8
  ttt-hf encode dialogues.jsonl --out encoded-dialogues --workers 8
  ttt-hf encode organisation/dataset --task tts --model my-model --out encoded-dataset --json
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verbs.add_parser(
        "encode",
        help="turn the audio of a data set into codes, once, for training",
        description="Turns the audio of a data set into codes and writes Parquet shards. Run it again to resume "
        "after an interruption, or to bring the codes up to date when rows or recordings have changed.",
        epilog=EXAMPLES + "tasks:\n" + "".join(f"  {task:<6}{what}\n" for task, what in TASKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="folder of audio, JSONL, JSON, Parquet, CSV or TSV file, or Hub id"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for the codes")
    parser.add_argument("--model", metavar="ID", help="folder or Hub id of the model whose codec encodes (default: "
                        "the embedded checkpoint)")  # fmt: skip
    parser.add_argument("--codec", metavar="ID", help="folder, Hub id or short name of a codec to use instead of the "
                        "model's own")  # fmt: skip
    parser.add_argument("--task", choices=TASKS, help="task of the rows, where the data do not name it")
    parser.add_argument("--split", metavar="NAME", help="split of a Hub data set, or of a folder with the folders "
                        "train, validation, test (default: train)")  # fmt: skip
    parser.add_argument("--config", metavar="NAME", help="configuration of a Hub data set")
    parser.add_argument("--variants", type=int, default=0, metavar="N", help="augmented encodings of each "
                        "recording of the user (speed, noise, room acoustics), of which each epoch of training draws "
                        "one (default: 0)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the variants (default: 0)")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes (default: one for each CPU; under torchrun its share of them)",
    )
    parser.add_argument("--shard-size", type=int, default=1000, metavar="N", help="rows a shard (default: 1000)")
    parser.add_argument(
        "--max-broken",
        type=float,
        metavar="SHARE",
        help="share of rows that may be left out because they cannot be used (default: 0.01, or up to 5 rows of small "
        "data)",
    )
    parser.add_argument("--allow-private", action="store_true", help="let rows name any file, and addresses of this "
                        "machine and its own network")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Encodes a data set."""
    _check_arguments(args)
    from ..data.reading import require_datasets
    from ..loading import base_folder, find_checkpoint, find_codec
    from .quiet import is_quiet, note, silence, silence_transformers

    with silence():
        # In order of cost: packages and names are checked before the data are read.
        require_datasets()
        folder = base_folder(find_checkpoint(args.model))
        codec = find_codec(folder, args.codec)
        if codec is None:
            raise FileNotFoundError(
                f"{folder} has no codec, so there is nothing to encode with: put the codec that it was trained with "
                "into its sub-folder codec, or name it with --codec."
            )
        import datasets

        from ..data.encoding import BROKEN_FILE, encode_source
        from ..data.sources import open_source
        from ..processes import Processes

        # encode_source shows a progress bar of its own.
        datasets.disable_progress_bars()
        silence_transformers()
        source = open_source(
            args.source, task=args.task, split=args.split, name=args.config, allow_private=args.allow_private
        )
        with Processes.of_this_run() as processes:
            report = encode_source(
                source,
                codec,
                args.out,
                name=args.source,
                variants=args.variants,
                seed=args.seed,
                workers=args.workers or default_workers(),
                shard_size=args.shard_size,
                max_broken=args.max_broken,
                show_progress=not is_quiet(),
                processes=processes,
            )
    if not processes.is_first:
        return
    if args.json:
        summary = dataclasses.asdict(report)
        # These rows are listed in a file; the summary counts them as skipped.
        del summary["broken"]
        if not args.variants:
            del summary["variants"]
        if not report.changed:
            del summary["changed"]
        print(json.dumps({**summary, "seconds": round(report.seconds, 3), "out": str(args.out)}, ensure_ascii=False))
    else:
        variants = f"{report.variants:,} variants, " if args.variants else ""
        print(
            f"{report.rows:,} rows, {report.seconds:,.1f} s of audio, {variants}shards: {report.shards:,}, "
            f"in {args.out}"
        )
    if report.skipped:
        note(f"rows left out because they cannot be used: {report.skipped}, see {args.out / BROKEN_FILE}")


def default_workers() -> int:
    """This process's share of the machine's CPUs, among those that a launcher has started there."""
    # os.cpu_count() is None where the system does not tell.
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _check_arguments(args: argparse.Namespace) -> None:
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers must be at least 1, not {args.workers}.")
    for name, value in (("--variants", args.variants), ("--seed", args.seed)):
        if value < 0:
            raise UsageError(f"{name} must not be negative, not {value}.")
    if args.shard_size < 1:
        raise UsageError(f"--shard-size must be at least 1, not {args.shard_size}.")
    # Written so that NaN is refused, too.
    if args.max_broken is not None and not 0 <= args.max_broken <= 1:
        raise UsageError(f"--max-broken is a share from 0 to 1, not {args.max_broken}.")
