"""Encodes audio to codes once: a data set becomes a folder of Parquet shards that training reads without a codec.

    encoding.json                      source, codec and statistics
    shard-00000-of-00012.parquet ...   canonical rows whose audio is codes
    broken.jsonl                       rows that were left out because they cannot be used, if there are any

Shards are written atomically, by several processes; an interrupted run continues with those that are missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_utils import PreTrainedAudioTokenizerBase

from ..atomic_files import atomic_write_text, check_folder
from ..processing.audio import audio_seconds
from .conversations import audio_source, row_items
from .reading import require_datasets
from .shards import Shard, broken_row, describe_broken, encode_shards, load_on_device, read_statistics
from .sources import ENCODING_FILE, Source, allowed_broken, check_broken


BROKEN_FILE = "broken.jsonl"
# Settings of an encoding that does not record them.
_WITHOUT_VARIANTS = {"variants": 0, "seed": 0}
# Keys of a codec's configuration that do not change its codes.
_VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


@dataclass
class EncodingReport:
    """What an encoding consists of.

    Args:
        rows: Rows written.
        skipped: Rows left out because they cannot be used.
        seconds: Seconds of audio that were encoded.
        variants: Variants of recordings.
        shards: Files written.
        fingerprint: `codec_fingerprint` of the codec.
        broken: For each row left out its number in the source from 1 (`row`), its file and line (`origin`), and the
            `error`.
    """

    rows: int = 0
    skipped: int = 0
    seconds: float = 0.0
    variants: int = 0
    shards: int = 0
    fingerprint: str = ""
    broken: list[dict[str, Any]] = field(default_factory=list)

    def add(self, statistics: Mapping[str, Any], allowed: int) -> None:
        """Adds a shard.

        Args:
            statistics: As `read_statistics` gives them.
            allowed: Rows that may be left out.

        Raises:
            ValueError: If more are left out by now.
        """
        self.rows += statistics["rows"]
        self.skipped += len(statistics["broken"])
        self.seconds += statistics["seconds"]
        self.variants += statistics.get("variants", 0)
        self.broken += statistics["broken"]
        check_broken([describe_broken(entry) for entry in self.broken], allowed)


def codec_fingerprint(codec: PreTrainedAudioTokenizerBase) -> str:
    """Hashes what a codec computes: codes of codecs with the same fingerprint mean the same.

    Returns:
        `"sha256:"` and the hash of its configuration and its weights, including their types.
    """
    digest = hashlib.sha256()
    config = {name: value for name, value in codec.config.to_dict().items() if name not in _VOLATILE}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    hash_tensors(digest, codec)
    return f"sha256:{digest.hexdigest()}"


def hash_tensors(digest: Any, module: torch.nn.Module) -> None:
    """Adds the parameters and buffers of a module, on any device, to a digest of `hashlib`."""
    for name, tensor in sorted(module.state_dict().items()):
        # The same bytes mean something else under another name, dtype or shape.
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # As bytes, since numpy has no bfloat16. Flattened first: a scalar cannot be viewed as another type.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def check_fingerprint(data: str | os.PathLike[str] | Any, codec: PreTrainedAudioTokenizerBase) -> None:
    """Checks that codes were made by a codec.

    Args:
        data: A folder that `encode_source` wrote, or canonical rows, as `load_source` gives them. Rows that do not
            name the codec of their codes pass; of a stream only the first row is checked.
        codec: The codec of the model.

    Raises:
        FileNotFoundError: If the folder holds no encoding.
        ValueError: If the codes are those of another codec.
    """
    if isinstance(data, (str, os.PathLike)):
        found = {_read_encoding(Path(data))["fingerprint"]}
    # A `datasets.Dataset`; a stream would have to be read to its end.
    elif hasattr(data, "unique"):
        found = set(data.unique("codec_fingerprint")) if "codec_fingerprint" in data.column_names else set()
    else:
        found = {(next(iter(data), None) or {}).get("codec_fingerprint")}
    own = codec_fingerprint(codec)
    others = sorted(found - {None, own})
    if others:
        raise ValueError(
            f"The data were encoded by another codec ({others[0][:19]}...) than this one ({own[:19]}...): encode them "
            "again with `ttt-hf encode --model`, or take the model that they were encoded for."
        )


def encode_source(
    source: Source,
    codec_folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    name: str = "",
    variants: int = 0,
    seed: int = 0,
    workers: int = 1,
    shard_size: int = 1000,
    max_broken: float | None = None,
    show_progress: bool = False,
) -> EncodingReport:
    """Encodes the audio of a data set into a folder. A folder that holds a part of the same encoding is completed.

    Args:
        source: Rows, as `open_source` gives them; not a stream.
        codec_folder: Folder or Hub id of the codec.
        out: Folder of the shards; made if missing.
        name: Name of the data in `encoding.json`.
        variants: Augmented encodings of each recording of the user (speed, noise, room acoustics); each epoch of
            training draws one of them, or the plain one.
        seed: Seed of the variants, which also depend on the number of the row.
        shard_size: Source rows per shard.
        max_broken: Share of the rows that may be left out because they cannot be used; by default 1 %, but at least 5
            rows.
        show_progress: Whether to show a progress bar on stderr.

    Returns:
        A report on the complete folder, including shards of earlier runs.

    Raises:
        OSError: If the folder cannot be written.
        ValueError: If the data hold no audio to encode, the folder holds something else, or more rows cannot be used
            than allowed; lists them by file and line.
    """
    require_datasets()
    _check_numbers(workers, shard_size, variants, seed)
    folder = Path(out)
    _check_folder(folder)
    rows = len(source.rows)
    count = math.ceil(rows / shard_size)
    allowed = allowed_broken(rows, max_broken)
    report = EncodingReport(shards=count)
    # 1. Everything that can be seen without decoding is checked before the codec is loaded.
    paths = {start: folder / f"shard-{number:05d}-of-{count:05d}.parquet"
             for number, start in enumerate(range(0, rows, shard_size))}  # fmt: skip
    missing = [start for start, path in paths.items() if not path.is_file()]
    for path in paths.values():
        if path.is_file():
            report.add(read_statistics(path), allowed)
    _check_rows(source, [range(start, min(start + shard_size, rows)) for start in missing], report, allowed)
    # 2. The folder belongs to one codec, source and setting.
    codec = load_on_device(codec_folder)
    report.fingerprint = codec_fingerprint(codec)
    settings = {"source": name, "source_rows": rows, "shard_size": shard_size, "variants": variants, "seed": seed}
    encoding = {**_describe_codec(codec, report.fingerprint), **settings}
    _begin(folder, encoding)
    # 3. Missing shards are encoded.
    shards = [Shard(paths[start], start, report.fingerprint, allowed, variants, seed) for start in missing]
    with (
        _progress_bar(rows, missing, shard_size, show_progress) as bar,
        encode_shards(source, shards, shard_size, codec, codec_folder, workers) as finished,
    ):
        for statistics in finished:
            report.add(statistics, allowed)
            bar.update(statistics["source_rows"])
    # 4. The folder is marked as complete, unless no row is left.
    _finish(folder, encoding, report)
    return report


def _describe_codec(codec: PreTrainedAudioTokenizerBase, fingerprint: str) -> dict[str, Any]:
    config = codec.config
    sizes = {"frame_rate": config.frame_rate, "codebook_size": config.codebook_size}
    return {"fingerprint": fingerprint, "codec": config.model_type, **sizes}


def _progress_bar(rows: int, missing: Sequence[int], shard_size: int, show_progress: bool) -> Any:
    """A progress bar on a terminal, nothing in a log."""
    from tqdm.auto import tqdm

    left = sum(min(shard_size, rows - start) for start in missing)
    disable = None if show_progress else True
    return tqdm(total=rows, initial=rows - left, desc="encoding", unit="row", disable=disable)


def _finish(folder: Path, encoding: Mapping[str, Any], report: EncodingReport) -> None:
    # Shards of several processes finish in any order.
    report.broken.sort(key=lambda entry: entry["row"])
    if report.broken:
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in report.broken)
        atomic_write_text(folder / BROKEN_FILE, lines)
    # Shards were checked against the limit: this refuses only data of which no row can be used.
    check_broken([describe_broken(entry) for entry in report.broken], report.skipped, report.rows + report.skipped)
    # Written last: a folder without `complete` is refused when it is opened.
    statistics = {"rows": report.rows, "skipped": report.skipped, "seconds": round(report.seconds, 3)}
    atomic_write_text(
        folder / ENCODING_FILE, json.dumps({**encoding, "complete": True, **statistics}, indent=2) + "\n"
    )


# -- checks -----------------------------------------------------------------------------------------------------------


def _check_numbers(workers: int, shard_size: int, variants: int, seed: int) -> None:
    if workers < 1 or shard_size < 1:
        raise ValueError(f"workers and shard_size must be at least 1, not {workers} and {shard_size}.")
    if variants < 0 or seed < 0:
        raise ValueError(f"variants and seed must not be negative, not {variants} and {seed}.")


def _check_folder(folder: Path) -> None:
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / ENCODING_FILE).is_file():
        raise ValueError(f"{folder} is not empty: name a new folder, or one that holds a part of this encoding.")


def _check_rows(source: Source, parts: Sequence[range], report: EncodingReport, allowed: int) -> None:
    """Checks the form of rows and the headers of their recordings, so that errors come before anything slow.

    Args:
        source: The rows.
        parts: Numbers of those that are not encoded yet.
        report: Of the others.
        allowed: Rows that may be left out.
    """
    problems = [describe_broken(entry) for entry in report.broken]
    # An earlier run that wrote rows had found audio in them.
    has_audio, has_codes = report.rows > 0, False
    for part in parts:
        for number, stored in zip(part, source.rows.select(part)):
            row = source.check(stored, number)
            items = list(row_items(row))
            has_audio = has_audio or any(audio_source(item) is not None for item in items)
            has_codes = has_codes or any(item.get("codes") is not None for item in items)
            try:
                if row["error"]:
                    raise ValueError(row["error"])
                for item in items:
                    _check_header(audio_source(item))
            except (OSError, ValueError) as error:
                problems.append(describe_broken(broken_row(row, number, error)))
    check_broken(problems, allowed, len(source.rows))
    if not has_audio:
        why = "their audio is codes already" if has_codes else "their rows have none"
        raise ValueError(f"The data hold no audio to encode, {why}: train on them as they are.")


def _check_header(source: Any) -> None:
    # A URL would be downloaded to be checked, and samples have no header.
    is_file = isinstance(source, str) and "://" not in source
    if is_file or isinstance(source, bytes):
        audio_seconds(source)


def _begin(folder: Path, encoding: dict[str, Any]) -> None:
    """Records what will be encoded, or checks that it is what an earlier run recorded."""
    if not (folder / ENCODING_FILE).is_file():
        atomic_write_text(folder / ENCODING_FILE, json.dumps({**encoding, "complete": False}, indent=2) + "\n")
        return
    begun = {**_WITHOUT_VARIANTS, **_read_encoding(folder)}
    other = [name for name, value in encoding.items() if begun.get(name) != value]
    if other:
        raise ValueError(
            f"{folder} holds another encoding (its {', '.join(other)} differs): name a new folder, or delete this one."
        )


def _read_encoding(folder: Path) -> dict[str, Any]:
    path = folder / ENCODING_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no encoding (it has no {ENCODING_FILE}): make one with `ttt-hf encode`."
        )
    try:
        encoding = json.loads(path.read_text(encoding="utf-8"))
        # Shows at once whether this is the content of an encoding.
        encoding["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: delete the folder and encode again.") from error
    return encoding
