"""From the data that a recipe names to training samples: encoded, built, shortened, and packed."""

from __future__ import annotations

import json
import logging
import math
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import SampleBuilder, fit_samples, pack_samples, training_length
from ..data.conversations import NEEDS_TASK, audio_source, row_items
from ..data.encoding import BROKEN_FILE, check_fingerprint, encode_source
from ..data.samples import build_samples
from ..data.sources import Source, allowed_broken, mix_rows, open_source, usable_rows
from ..data.tables import list_problems
from ..data.variants import growth
from ..modeling import TtTConfig
from ..overrides import shorten
from ..processing import TtTProcessor


if TYPE_CHECKING:
    from .arguments import DataArguments, ObjectiveArguments

logger = logging.getLogger(__name__)

SOURCE_KEYS = ("path", "task", "ratio", "split", "name", "allow_private")


def parse_sources(text: str) -> list[dict[str, Any]]:
    """Parses the data of a recipe.

    Args:
        text: A path or Hub id, or JSON of one source or of a list of them.

    Returns:
        A mapping for each source, with `path`.
    """
    # Lists and mappings of a recipe arrive as JSON, see `arguments.parse_recipe`.
    text = text.strip()
    try:
        entries = json.loads(text) if text.startswith(("[", "{")) else [text]
    except ValueError:
        # A name that only looks like JSON.
        entries = [text]
    sources = []
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, str | dict):
            raise ValueError(f"A data set of the recipe is a path or a mapping, not {shorten(json.dumps(entry))}.")
        source = {"path": entry} if isinstance(entry, str) else dict(entry)
        unknown = sorted(source.keys() - set(SOURCE_KEYS))
        if unknown or not source.get("path"):
            what = f"has the unknown key {shorten(unknown[0])}" if unknown else "has no path"
            raise ValueError(f"A data set of the recipe {what}: give {', '.join(SOURCE_KEYS)}.")
        for key in source.keys() - {"ratio"}:
            kind, what = (bool, "true or false") if key == "allow_private" else (str, "a text")
            if not isinstance(source[key], kind):
                shown = shorten(json.dumps(source[key]))
                raise ValueError(f"The {key} of a data set of the recipe must be {what}, not {shown}.")
        ratio = source.get("ratio", 1.0)
        # A bool is an int in Python; a NaN fails the comparison.
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < math.inf:
            raise ValueError(f"The ratio of {source['path']} must be a positive number, not {ratio!r}.")
        sources.append(source)
    return sources


def prepare_samples(
    text: str,
    arguments: DataArguments,
    objective: ObjectiveArguments,
    processor: TtTProcessor,
    config: TtTConfig,
    work: Path,
    statistics: list[dict[str, Any]] | None = None,
    is_training: bool = True,
    seed: int = 0,
) -> Any:
    """Prepares samples for `TtTTrainer`.

    Encodes raw audio into `work`, where the next run finds the codes. Every source is opened once: its rows are
    canonical rows, then encoded rows, then samples.

    Args:
        text: The data as in the recipe.
        arguments: Spans, lengths, packing.
        objective: Decides how many positions a sample takes in training.
        processor: Writes the prompts; its codec encodes. Its `max_audio_seconds` grows with the recordings to learn.
        work: Folder for encoded audio.
        statistics: List to which each source is added as in the recipe, with its number of `rows` and its `seconds` of
            audio where they are known.
        is_training: Whether sources are mixed by their ratios and recordings may have variants. In evaluation every
            row counts once, and only the recordings themselves are used.
        seed: Seed of the order in which the sources are mixed.

    Returns:
        Columns `input_ids`, `labels`, `length`, `variants`, and `sample_lengths` where samples are packed.
    """
    from datasets import concatenate_datasets

    sources = parse_sources(text)
    # 1. Rows of each source, with codes in place of audio.
    sets = []
    for source in sources:
        rows, known = _encoded_rows(source, arguments, processor, work, is_training)
        sets.append(rows)
        if statistics is not None:
            statistics.append({**source, **known})
    # 2. One stream of rows. Codes of another codec would train without an error, and to no avail.
    if is_training:
        mixed = mix_rows(sets, [float(source.get("ratio", 1.0)) for source in sources], seed)
    else:
        # A mixture repeats rows of small sources, which would weigh more in the evaluation's means.
        mixed = concatenate_datasets(sets)
    if processor.codec is not None:
        check_fingerprint(mixed, processor.codec)
    builder = SampleBuilder(processor, config, arguments.text_per_span, arguments.audio_per_span)
    counts: Counter[str] = Counter()
    broken: list[str] = []
    allowed = 0 if arguments.streaming else allowed_broken(len(mixed), arguments.max_broken)

    # 3. Samples. In batches, since one row may give several samples or none.
    def build(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [dict(zip(batch, values)) for values in zip(*batch.values())]
        if is_training:
            _raise_limit(processor, rows)
        built = build_samples(builder, rows, broken, allowed)
        samples = list(fit_samples(built, config, arguments.max_length, counts))
        # Encoded folders may hold variants, which an evaluation leaves out.
        variants = [sample.get("variants", []) if is_training else [] for sample in samples]
        return {
            "input_ids": [sample["input_ids"] for sample in samples],
            "labels": [sample["labels"] for sample in samples],
            # The longest that a draw of variants can make the sample, so that packed rows never overflow.
            "length": [
                training_length(sample["labels"], config, objective.noise_copies, objective.objective)
                + growth(further)
                for sample, further in zip(samples, variants)
            ],
            "variants": variants,
        }

    samples = _map(mixed, build, arguments.streaming, features=_features())
    if not arguments.streaming:
        if broken:
            logger.warning("rows left out because they cannot be learned: %d (%s)", len(broken), list_problems(broken))
        if not len(samples):
            raise ValueError(f"No sample is left: all are longer than max_length ({arguments.max_length} tokens).")
        logger.info("%d samples: %s", len(samples), ", ".join(f"{what} {count}" for what, count in counts.items()))
    # 4. Rows of several samples.
    if arguments.row_length:
        settings = {"fn_kwargs": {"row_length": arguments.row_length}, "features": _features(is_packed=True)}
        samples = _map(samples, pack_samples, arguments.streaming, **settings)
    return samples


def _raise_limit(processor: TtTProcessor, rows: Sequence[Mapping[str, Any]]) -> None:
    """Lets the processor take recordings as long as those of the user in these rows: the model learns to hear them."""
    if processor.max_audio_seconds is None or processor.codec is None:
        return
    heard = [
        len(item.get("codes") or ())
        for row in rows
        for message in row.get("messages") or ()
        if message["role"] != "assistant"
        for item in message["content"]
    ]
    longest = max(heard, default=0) / processor.codec.config.frame_rate
    processor.max_audio_seconds = max(processor.max_audio_seconds, longest)


def _encoded_rows(
    source: Mapping[str, Any], arguments: DataArguments, processor: TtTProcessor, work: Path, is_training: bool
) -> tuple[Any, dict[str, Any]]:
    """The rows of a source with their audio encoded, its task, and how many rows and seconds they are, if known."""
    options = {key: source[key] for key in ("task", "split", "name", "allow_private") if key in source}
    opened = open_source(source["path"], arguments.streaming, **options)
    implied: dict[str, Any] = {}
    if arguments.task and "task" not in source and _needs_task(opened):
        implied = {"task": arguments.task}
        source = {**source, **implied}
        opened = open_source(source["path"], arguments.streaming, **options, **implied)
    if opened.encoding is None and _has_audio(opened, arguments.streaming):
        opened = _encode(opened, source, arguments, processor, work, is_training)
    rows = usable_rows(opened, arguments.max_broken)
    known = {} if arguments.streaming else {"rows": len(rows)}
    # What encode recorded: seconds are known nowhere else, and rows not of a stream.
    if opened.encoding is not None:
        known = {key: opened.encoding[key] for key in ("rows", "seconds") if key in opened.encoding}
    return rows, {**implied, **known}


def _needs_task(opened: Source) -> bool:
    """Whether the rows are recordings and texts, by the first one that says it: dialogues keep their own tasks."""
    errors = (opened.check(stored, number)["error"] for number, stored in enumerate(opened.rows))
    return next((error for error in errors if error in (None, NEEDS_TASK)), None) == NEEDS_TASK


def _has_audio(opened: Source, streaming: bool) -> bool:
    """Whether rows hold audio that is not encoded; of a stream, whether the first one does."""
    for number, stored in enumerate(opened.rows):
        if any(audio_source(item) is not None for item in row_items(opened.check(stored, number))):
            return True
        if streaming:
            break
    return False


def _encode(
    opened: Source,
    source: Mapping[str, Any],
    arguments: DataArguments,
    processor: TtTProcessor,
    work: Path,
    is_training: bool,
) -> Source:
    """Encodes a source into a folder in `work`, and opens that."""
    if arguments.streaming:
        raise ValueError(f"{source['path']} is streamed, but holds audio: run `ttt-hf encode` on it first.")
    if processor.codec is None:
        raise ValueError("The model comes without a codec, which the audio of the data needs: set the key codec.")
    # The name holds everything that decides the codes, so that no other encoding is taken for this one.
    variants = arguments.audio_variants if is_training else 0
    options = [source[key] for key in ("task", "split", "name") if key in source]
    parts = (source["path"], *options, *([f"variants-{variants}"] if variants else []))
    folder = work / "-".join(re.sub(r"\W+", "-", str(part)).strip("-") for part in parts)
    with tempfile.TemporaryDirectory() as codec_folder:  # from which other processes load it
        processor.codec.save_pretrained(codec_folder)
        report = encode_source(
            opened,
            codec_folder,
            folder,
            name=source["path"],
            variants=variants,
            workers=arguments.encoding_workers,
            max_broken=arguments.max_broken,
            show_progress=True,
            # The other processes of this training may encode, too: they find the codes of the first one.
            wait=True,
        )
    logger.info("%s: %d rows, %.0f s of audio", source["path"], report.rows, report.seconds)
    if report.skipped:
        left_out = "%s: rows left out because they cannot be used: %d, see %s"
        logger.warning(left_out, source["path"], report.skipped, folder / BROKEN_FILE)
    return open_source(folder)


def _features(is_packed: bool = False) -> Any:
    """Columns of samples; given explicitly, because a first batch without variants does not show their type."""
    from datasets import Features, List, Value

    ids = List(Value("int64"))
    variants = List({"start": Value("int64"), "end": Value("int64"), "input_ids": List(ids)})
    columns = {"input_ids": ids, "labels": ids, "length": Value("int64"), "variants": variants}
    return Features(columns | ({"sample_lengths": ids} if is_packed else {}))


def _map(rows: Any, function: Any, streaming: bool, **settings: Any) -> Any:
    columns = rows.column_names or list(next(iter(rows)))
    if not streaming:
        # A cached result would not call the function, and so leave its counts empty.
        settings["load_from_cache_file"] = False
    return rows.map(function, batched=True, remove_columns=columns, **settings)
