"""Encodes audio to codes once: a data set becomes a folder of Parquet shards that training reads without a codec.

    encoding.json                      source, codec and statistics
    shard-00000-of-00012.parquet ...   canonical rows whose audio is codes
    broken.jsonl                       rows that were left out because they cannot be used, if there are any

Shards are written atomically, by several processes, on several machines that share the folder under `torchrun` or
`accelerate launch`; an interrupted run continues with those that are missing. Where data have changed, only the rows
that differ are encoded again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.modeling_utils import PreTrainedAudioTokenizerBase

from ..atomic_files import atomic_write_text, check_folder
from ..processes import Processes
from ..processing.audio import audio_seconds
from ..processing.fetching import Access, is_address
from ..processing.listening import trims_silence
from .conversations import audio_source, row_items
from .reading import require_datasets
from .reuse import Plan, plan_shards, read_encoding, read_statistics, row_key
from .shards import Shard, broken_row, describe_broken, encode_shards, load_on_device
from .sources import ENCODING_FILE, Source, allowed_broken, check_broken


logger = logging.getLogger(__name__)

BROKEN_FILE = "broken.jsonl"
# Settings of an encoding that does not record them.
_UNRECORDED = {"variants": 0, "seed": 0, "trim_silence": False}
# Keys of a codec's configuration that do not change its codes.
# The last one decides what is encoded, not what the codes mean.
_VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "trim_silence")


@dataclass
class EncodingReport:
    """What an encoding consists of.

    Args:
        rows: Rows written.
        skipped: Rows left out because they cannot be used.
        seconds: Seconds of audio that were encoded.
        variants: Variants of recordings.
        changed: Rows that are new or differ from those of an earlier run, and were encoded for that reason.
        shards: Files written.
        fingerprint: `codec_fingerprint` of the codec.
        broken: For each row left out its number in the source from 1 (`row`), its file and line (`origin`), and the
            `error`.
    """

    rows: int = 0
    skipped: int = 0
    seconds: float = 0.0
    variants: int = 0
    changed: int = 0
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
        found = {read_encoding(Path(data))["fingerprint"]}
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
    wait: bool = False,
    processes: Processes | None = None,
) -> EncodingReport:
    """Encodes the audio of a data set into a folder. A folder that holds a part of the same encoding is completed, and
    rows that changed since they were encoded are encoded again: a row, or the size or time of its recording.

    Args:
        source: Rows, as `open_source` gives them; not a stream.
        codec_folder: Folder or Hub id of the codec.
        out: Folder of the shards; made if missing.
        name: Name of the data in `encoding.json`.
        variants: Augmented encodings of each recording of the user (speed, noise, room acoustics); each epoch of
            training draws one of them, or the plain one.
        seed: Seed of the variants, which also depend on the number of the row.
        shard_size: Source rows per shard.
        max_broken: Share of the rows that may be left out because they cannot be used; see `allowed_broken`.
        show_progress: Whether to show a progress bar on stderr.
        wait: Whether to wait for another process that writes to the folder, such as one of the same training.
        processes: This process among those that encode the data together, each called alike; alone by default.

    Returns:
        A report on the complete folder, including shards of earlier runs.

    Raises:
        OSError: If the folder cannot be written.
        BlockingIOError: If another process is writing to it.
        ValueError: If the data hold no audio to encode, the folder holds something else, or more rows cannot be used
            than allowed; lists them by file and line.
    """
    require_datasets()
    _check_numbers(workers, shard_size, variants, seed)
    folder = Path(out)
    _check_folder(folder)
    allowed = allowed_broken(len(source.rows), max_broken)
    # 1. Everything that can be seen without decoding is checked before the codec is loaded.
    contents = _read_contents(source, has_variants=variants > 0)
    plan = plan_shards(folder, contents.keys, shard_size, contents.remote)
    _check_rows(source, contents, plan, allowed)
    # 2. The folder belongs to one codec, source and setting.
    codec = load_on_device(codec_folder)
    fingerprint = codec_fingerprint(codec)
    settings = {"source": name, "shard_size": shard_size, "variants": variants, "seed": seed}
    encoding = {**_describe_codec(codec, fingerprint), **settings}
    _check_settings(folder, encoding)
    processes = processes or Processes()
    # Nobody may write before all have seen what is there.
    processes.wait()
    if plan.is_done:
        return _report(plan, fingerprint, allowed)
    with processes.lock(folder, wait):
        if processes.is_first:
            # Another run may have been here meanwhile.
            _check_settings(folder, encoding)
            plan = plan_shards(folder, contents.keys, shard_size, contents.remote)
            _begin(folder, encoding, plan)
        processes.wait()
        if not processes.is_first:
            plan = plan_shards(folder, contents.keys, shard_size, contents.remote)
        # Nobody writes a shard before all have made the same plan.
        processes.wait()
        # 3. What is missing is encoded, or taken over from shards that are no longer right.
        earlier, shards = plan.find(), []
        for path, start in processes.shard(plan.missing):
            keys = plan.keys[start : start + shard_size]
            found = {key: earlier[key] for key in keys if key in earlier}
            shards.append(Shard(path, start, keys, fingerprint, allowed, variants, seed, found))
        report = _report(plan, fingerprint, allowed)
        with (
            _progress_bar(len(plan.keys), shards, show_progress and processes.is_first) as bar,
            encode_shards(source, shards, codec, codec_folder, workers) as finished,
        ):
            for statistics in finished:
                report.add(statistics, allowed)
                bar.update(statistics["source_rows"])
        # 4. The folder is marked as complete, unless no row is left.
        processes.wait()
        if processes.count > 1:
            written = {path: read_statistics(path) for path, _ in plan.missing}
            report = _report(replace(plan, kept={**plan.kept, **written}, missing=[]), fingerprint, allowed)
        if processes.is_first:
            _finish(folder, encoding, report, plan)
        processes.wait()
    return report


def _describe_codec(codec: PreTrainedAudioTokenizerBase, fingerprint: str) -> dict[str, Any]:
    config = codec.config
    sizes = {"frame_rate": config.frame_rate, "codebook_size": config.codebook_size}
    return {"fingerprint": fingerprint, "codec": config.model_type, **sizes, "trim_silence": trims_silence(config)}


def _progress_bar(rows: int, shards: Sequence[Shard], show_progress: bool) -> Any:
    """A progress bar on a terminal, nothing in a log."""
    from tqdm.auto import tqdm

    left = sum(len(shard.keys) for shard in shards)
    disable = None if show_progress else True
    return tqdm(total=rows, initial=rows - left, desc="encoding", unit="row", disable=disable)


def _begin(folder: Path, encoding: Mapping[str, Any], plan: Plan) -> None:
    """Records what will be encoded, and puts what is no longer right aside."""
    if plan.stale and not any("keys" in statistics for statistics in {**plan.kept, **plan.stale}.values()):
        logger.warning("%s: an older version wrote it, and not what it was made of: encoding all rows again", folder)
    elif plan.changed:
        logger.warning("%s: %d of %d rows changed: encoding them again", folder, plan.changed, len(plan.keys))
    elif plan.stale:
        logger.warning("%s: writing shards again whose rows were removed, moved, or are tried again", folder)
    # Before any shard is touched: a folder that is not complete is refused when it is opened.
    encoding = {**encoding, "source_rows": len(plan.keys), "complete": False}
    atomic_write_text(folder / ENCODING_FILE, json.dumps(encoding, indent=2) + "\n")
    plan.retire()


def _report(plan: Plan, fingerprint: str, allowed: int) -> EncodingReport:
    """A report on the shards that stay."""
    report = EncodingReport(shards=len(plan.kept) + len(plan.missing), changed=plan.changed, fingerprint=fingerprint)
    for statistics in plan.kept.values():
        report.add(statistics, allowed)
    return report


def _finish(folder: Path, encoding: Mapping[str, Any], report: EncodingReport, plan: Plan) -> None:
    # Shards of several processes finish in any order.
    report.broken.sort(key=lambda entry: entry["row"])
    if report.broken:
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in report.broken)
        atomic_write_text(folder / BROKEN_FILE, lines)
    else:
        (folder / BROKEN_FILE).unlink(missing_ok=True)
    # Shards were checked against the limit: this refuses only data of which no row can be used.
    check_broken([describe_broken(entry) for entry in report.broken], report.skipped, report.rows + report.skipped)
    for path in plan.stale:
        path.unlink(missing_ok=True)
    # Written last, see `_begin`.
    statistics = {"rows": report.rows, "skipped": report.skipped, "seconds": round(report.seconds, 3)}
    encoding = {**encoding, "source_rows": len(plan.keys), "complete": True, **statistics}
    atomic_write_text(folder / ENCODING_FILE, json.dumps(encoding, indent=2) + "\n")


# -- checks -----------------------------------------------------------------------------------------------------------


def _check_numbers(workers: int, shard_size: int, variants: int, seed: int) -> None:
    if workers < 1 or shard_size < 1:
        raise ValueError(f"workers and shard_size must be at least 1, not {workers} and {shard_size}.")
    if variants < 0 or seed < 0:
        raise ValueError(f"variants and seed must not be negative, not {variants} and {seed}.")


def _check_folder(folder: Path) -> None:
    check_folder(folder)
    # Hidden files are those of a run that was killed before it wrote anything.
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if ENCODING_FILE not in names and any(not name.startswith(".") for name in names):
        raise ValueError(f"{folder} is not empty: name a new folder, or one that holds a part of this encoding.")


def _check_settings(folder: Path, encoding: Mapping[str, Any]) -> None:
    if not (folder / ENCODING_FILE).is_file():
        return
    begun = {**_UNRECORDED, **read_encoding(folder)}
    other = [name for name, value in encoding.items() if begun.get(name) != value]
    if other:
        raise ValueError(
            f"{folder} holds another encoding (its {', '.join(other)} differs): name a new folder, or delete this one."
        )


class _Contents(NamedTuple):
    """What all rows of the data show: their keys, the numbers of those with audio behind a URL, and kinds of audio."""

    keys: list[str]
    remote: set[int]
    has_audio: bool
    has_codes: bool


def _read_contents(source: Source, has_variants: bool) -> _Contents:
    keys: list[str] = []
    remote = set()
    has_audio = has_codes = False
    for number, stored in enumerate(source.rows):
        row = source.check(stored, number)
        # Variants depend on the number of the row, too.
        keys.append(row_key(row, number if has_variants else None))
        for item in row_items(row):
            has_audio = has_audio or audio_source(item) is not None
            has_codes = has_codes or item.get("codes") is not None
            if is_address(item.get("path") or ""):
                remote.add(number)
    return _Contents(keys, remote, has_audio, has_codes)


def _check_rows(source: Source, contents: _Contents, plan: Plan, allowed: int) -> None:
    """Checks the form of rows and the headers of their recordings, so that errors come before anything slow."""
    problems = [describe_broken(entry) for statistics in plan.kept.values() for entry in statistics["broken"]]
    for number, stored in zip(plan.todo, source.rows.select(plan.todo)):
        row = source.check(stored, number)
        try:
            if row["error"]:
                raise ValueError(row["error"])
            for item in row_items(row):
                _check_header(audio_source(item), source.access)
        except Exception as error:  # as in `shards`
            problems.append(describe_broken(broken_row(row, number, error)))
    check_broken(problems, allowed, len(source.rows))
    if not contents.has_audio:
        why = "their audio is codes already" if contents.has_codes else "their rows have none"
        raise ValueError(f"The data hold no audio to encode, {why}: train on them as they are.")


def _check_header(source: Any, access: Access) -> None:
    # What is behind an address would be downloaded to be checked, and samples have no header.
    is_file = isinstance(source, str) and not is_address(source)
    if is_file or isinstance(source, bytes):
        audio_seconds(source, access)
