"""From the data that a recipe names to training samples: encoded, built, made to fit, and packed."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import SampleBuilder, fit_samples, pack_samples, training_length
from ..data.conversations import Row, audio_source, row_items
from ..data.encoding import BROKEN_FILE, check_fingerprint, encode_source
from ..data.samples import Sample
from ..data.sources import ENCODING_FILE, load_source, open_source
from ..data.variants import growth
from ..modeling import TtTConfig
from ..processing import TtTProcessor


if TYPE_CHECKING:
    from .arguments import DataArguments, ObjectiveArguments

logger = logging.getLogger(__name__)

SOURCE_KEYS = ("path", "task", "ratio", "split", "name")


def parse_sources(text: str) -> list[dict[str, Any]]:
    """Reads what a recipe says of its data.

    Args:
        text: A path or Hub id, or JSON of one source or of a list of them.

    Returns:
        One mapping a source, each with `path`.

    Raises:
        ValueError: If a source has no path, or a key that is not known.
    """
    text = text.strip()
    entries = json.loads(text) if text.startswith(("[", "{")) else [text]
    sources = []
    for entry in entries if isinstance(entries, list) else [entries]:
        source = {"path": entry} if isinstance(entry, str) else dict(entry)
        unknown = sorted(source.keys() - set(SOURCE_KEYS))
        if unknown or not source.get("path"):
            what = f"has the unknown key {unknown[0]}" if unknown else "has no path"
            raise ValueError(f"A data set of the recipe {what}: give {', '.join(SOURCE_KEYS)}.")
        sources.append(source)
    return sources


def prepare_samples(
    text: str,
    arguments: DataArguments,
    objective: ObjectiveArguments,
    processor: TtTProcessor,
    config: TtTConfig,
    work: Path,
    facts: list[dict[str, Any]] | None = None,
    is_training: bool = True,
) -> Any:
    """Prepares samples for `TtTTrainer`.

    Audio that is not encoded is, into `work`, where the next run finds it.

    Args:
        text: The data, as the recipe names them.
        arguments: Spans, lengths, packing.
        objective: How many positions a sample takes in training depends on it.
        processor: Writes the prompts; its codec encodes.
        config: Names the audio ids.
        work: Folder for what is encoded.
        facts: Gets each source as the recipe names it, with its number of `rows` and of `seconds` of audio where they
            are known.
        is_training: Whether recordings may have variants: what is evaluated is what was recorded.

    Returns:
        Columns `input_ids`, `labels`, `length`, `variants`, and `sample_lengths` where samples are packed.

    Raises:
        OSError, ValueError: If data cannot be read, were encoded by another codec, or nothing of them can be learned.
    """
    sources = parse_sources(text)
    encoded = [_encoded(source, arguments, processor, work, is_training) for source in sources]
    if facts is not None:
        facts += [{**source, **numbers} for source, (_, numbers) in zip(sources, encoded)]
    rows = load_source([source for source, _ in encoded], arguments.streaming)
    if processor.codec is not None:
        check_fingerprint(rows, processor.codec)
    builder = SampleBuilder(processor, config, arguments.text_per_span, arguments.audio_per_span)
    counts: Counter[str] = Counter()

    def build_one(row: Row, number: int) -> Sample:
        try:
            return builder(row)
        except ValueError as error:
            raise ValueError(f"Row {number} of the data: {error}") from error

    def build(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        batch_rows = [dict(zip(batch, values)) for values in zip(*batch.values())]
        samples = list(fit_samples(map(build_one, batch_rows, numbers), config, arguments.max_length, counts))
        variants = [sample.get("variants", []) if is_training else [] for sample in samples]
        return {
            "input_ids": [sample["input_ids"] for sample in samples],
            "labels": [sample["labels"] for sample in samples],
            "length": [
                training_length(sample["labels"], config, objective.noise_copies, objective.objective)
                + growth(further)
                for sample, further in zip(samples, variants)
            ],
            "variants": variants,
        }

    samples = _map(rows, build, arguments.streaming, with_indices=True, features=_features())
    if not arguments.streaming:
        if not len(samples):
            raise ValueError(f"No sample is left: all are longer than max_length ({arguments.max_length} tokens).")
        logger.info("%d samples: %s", len(samples), ", ".join(f"{what} {count}" for what, count in counts.items()))
    if arguments.row_length:
        samples = _map(
            samples,
            pack_samples,
            arguments.streaming,
            fn_kwargs={"row_length": arguments.row_length},
            features=_features(is_packed=True),
        )
    return samples


def _encoded(
    source: Mapping[str, Any], arguments: DataArguments, processor: TtTProcessor, work: Path, is_training: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The source, or the folder that its audio was encoded into; and how many rows and seconds it has, if known."""
    encoding_file = Path(source["path"]) / ENCODING_FILE
    if encoding_file.is_file():
        encoding = json.loads(encoding_file.read_text(encoding="utf-8"))
        return dict(source), {key: encoding[key] for key in ("rows", "seconds") if key in encoding}
    options = {key: source[key] for key in ("task", "split", "name") if key in source}
    opened = open_source(source["path"], arguments.streaming, **options)
    first = opened.convert(next(iter(opened.rows)))
    if all(audio_source(item) is None for item in row_items(first)):
        return dict(source), {} if arguments.streaming else {"rows": len(opened.rows)}
    if arguments.streaming:
        raise ValueError(f"{source['path']} is streamed, but holds audio: run `ttt-hf encode` on it first.")
    if processor.codec is None:
        raise ValueError("The model comes without a codec, which the audio of the data needs: set the key codec.")
    # Everything that decides what the rows become is in the name, so that no other encoding is taken for this one.
    variants = arguments.audio_variants if is_training else 0
    parts = (source["path"], *options.values(), *([f"variants-{variants}"] if variants else []))
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
        )
    logger.info("%s: %d rows, %.0f s of audio", source["path"], report.rows, report.seconds)
    if report.skipped:
        left_out = "%s: rows left out because their audio cannot be read: %d, see %s"
        logger.warning(left_out, source["path"], report.skipped, folder / BROKEN_FILE)
    found = {"path": str(folder), **({"ratio": source["ratio"]} if "ratio" in source else {})}
    return found, {"rows": report.rows, "seconds": report.seconds}


def _features(is_packed: bool = False) -> Any:
    """Columns of samples: said, because a first batch without variants does not show what they are."""
    from datasets import Features, List, Value

    ids = List(Value("int64"))
    variants = List({"start": Value("int64"), "end": Value("int64"), "input_ids": List(ids)})
    columns = {"input_ids": ids, "labels": ids, "length": Value("int64"), "variants": variants}
    return Features(columns | ({"sample_lengths": ids} if is_packed else {}))


def _map(rows: Any, function: Any, streaming: bool, **settings: Any) -> Any:
    columns = rows.column_names or list(next(iter(rows)))
    if not streaming:
        settings["load_from_cache_file"] = False
    return rows.map(function, batched=True, remove_columns=columns, **settings)
