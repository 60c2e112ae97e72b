"""Shards of encoded rows: each is written by one process, independently of the others, and atomically."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.modeling_utils import PreTrainedAudioTokenizerBase

from ..atomic_files import atomic_write
from ..loading import load_named_codec
from ..processing.fetching import TABLE, Access
from ..processing.listening import load_recording
from .augmentation import vary
from .conversations import Row, audio_source, row_items
from .reuse import METADATA_KEY, Found, read_rows
from .sources import Source, check_broken, printable, row_features


def encode_row(
    row: Mapping[str, Any],
    codec: PreTrainedAudioTokenizerBase,
    variants: int = 0,
    seed: int | Sequence[int] = 0,
    access: Access = TABLE,
) -> tuple[Row, float]:
    """Encodes the audio of a canonical row. Codes that it holds already stay; what the assistant says is encoded as it
    is, and recordings of the user as the model hears them (see `listening.hear`).

    Args:
        variants: Augmented encodings of each recording of the user (see `augmentation.vary`), stored under `variants`,
            next to its `codes`. Speech of the assistant, a training target, has none.
        seed: Seed of the variants. A larger number of variants starts with the same ones.
        access: What may be read on behalf of the row.

    Returns:
        The row with codes in place of audio, and the seconds of audio encoded.

    Raises:
        OSError, ValueError: If an audio cannot be read.
    """
    rate = codec.config.sampling_rate
    samples_per_code = round(rate / codec.config.frame_rate)
    seeds = [seed] if isinstance(seed, int) else list(seed)
    seconds = 0.0
    recordings = 0

    def encode(item: Mapping[str, Any], is_learned: bool = True) -> Mapping[str, Any]:
        nonlocal seconds, recordings
        source = audio_source(item)
        if source is None:
            return item
        if isinstance(source, list):
            # Samples in Parquet files come as lists.
            source = np.asarray(source, dtype=np.float32)
        waveform = load_recording(source, item.get("sampling_rate"), codec.config, access, is_heard=not is_learned)
        seconds += len(waveform) / rate
        encoded: dict[str, Any] = {"type": "audio", "codes": _encode(waveform, codec)}
        if item.get("span"):
            encoded["span"] = item["span"]
        if variants and not is_learned:
            # A generator per recording and variant, so that more variants begin with the same ones.
            generators = [np.random.default_rng([*seeds, recordings, number]) for number in range(variants)]
            varied = [vary(waveform, rate, samples_per_code, rng) for rng in generators]
            encoded["variants"] = [_encode(clip, codec) for clip in varied]
            recordings += 1
        return encoded

    encoded = dict(row)
    if row.get("content"):
        encoded["content"] = [encode(item) for item in row["content"]]
    if row.get("messages"):
        encoded["messages"] = [
            {**message, "content": [encode(item, message["role"] == "assistant") for item in message["content"]]}
            for message in row["messages"]
        ]
    return encoded, seconds


@dataclass
class Shard:
    """What is needed to write one shard.

    Args:
        path: File that it is written to.
        start: Number of its first row in the source, from 0.
        keys: Keys of its rows, see `reuse.row_key`.
        fingerprint: Fingerprint of the codec.
        allowed: Rows that may be left out because they cannot be used.
        variants: Augmented encodings of each recording of the user.
        seed: Seed of the variants.
        found: Rows by their keys that are encoded already.
    """

    path: Path
    start: int
    keys: Sequence[str]
    fingerprint: str
    allowed: int
    variants: int
    seed: int
    found: Mapping[str, Found] = field(default_factory=dict)


@contextmanager
def encode_shards(
    source: Source,
    shards: Sequence[Shard],
    codec: PreTrainedAudioTokenizerBase,
    codec_folder: str | os.PathLike[str],
    workers: int,
) -> Iterator[Iterator[dict[str, Any]]]:
    """Encodes shards in parallel, and gives the statistics of each as it is finished (see `read_statistics`)."""
    parts = [source.rows.select(range(shard.start, shard.start + len(shard.keys))) for shard in shards]
    tasks = [(shard, replace(source, rows=part)) for shard, part in zip(shards, parts)]
    if workers == 1 or len(tasks) < 2:
        # The codec that is loaded already is used; shards are encoded as the caller asks for them.
        yield (_encode_shard(shard, part, codec) for shard, part in tasks)
        return
    # Spawned, not forked: this process has threads, and may have touched a GPU.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, _start_worker, (codec_folder, codec.device))
    try:
        futures: list[Future[dict[str, Any]]] = [pool.submit(_encode_in_worker, shard, part) for shard, part in tasks]
        yield (future.result() for future in as_completed(futures))
    finally:
        # Shards that were not begun are dropped, or an error would be reported only after all of them.
        pool.shutdown(wait=True, cancel_futures=True)


_worker_codec: PreTrainedAudioTokenizerBase | None = None


def _start_worker(codec_folder: str | os.PathLike[str], device: torch.device) -> None:
    global _worker_codec
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interruption ends a worker without a traceback of its own
    torch.set_num_threads(1)  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker_codec = load_named_codec(os.fspath(codec_folder)).to(device)


def _end_with_parent() -> None:
    # A parent that is killed ends nobody: a worker would wait for ever, or overwrite a shard of the next run.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_in_worker(shard: Shard, part: Source) -> dict[str, Any]:
    if _worker_codec is None:
        raise RuntimeError("This process has no codec: it was not started by encode_source.")
    return _encode_shard(shard, part, _worker_codec)


def _encode_shard(shard: Shard, part: Source, codec: PreTrainedAudioTokenizerBase) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[Row] = []
    row_seconds: list[float] = []
    broken: list[dict[str, Any]] = []
    earlier = read_rows(shard.found)
    for number, (key, stored) in enumerate(zip(shard.keys, part.rows), start=shard.start):
        if key in earlier:
            encoded, length = earlier[key]
            rows.append(encoded)
            row_seconds.append(length)
            continue
        row = part.check(stored, number)
        try:
            if row["error"]:
                raise ValueError(row["error"])
            # Seeded by the number of the row, so that variants depend neither on shards nor on interruptions.
            encoded, length = encode_row(row, codec, shard.variants, (shard.seed, number), part.access)
        # Whatever one row does is counted: a mistake of ours would be in all rows, and stop the run at the limit.
        except Exception as error:
            broken.append(broken_row(row, number, error))
            # Stops as soon as this shard alone is over the limit; the report of all shards counts once more.
            check_broken([describe_broken(entry) for entry in broken], shard.allowed)
            continue
        # Not a broken row but an error: codes of two codecs would give the same ids two meanings.
        if encoded["codec_fingerprint"] not in (None, shard.fingerprint):
            raise ValueError(f"{row['origin']} holds codes of another codec: encode its audio again.")
        row_seconds.append(length)
        rows.append({**encoded, "codec_fingerprint": shard.fingerprint})
    statistics = {
        "fingerprint": shard.fingerprint,
        "start": shard.start,
        "source_rows": len(part.rows),
        "keys": list(shard.keys),
        "rows": len(rows),
        "seconds": sum(row_seconds),
        "row_seconds": row_seconds,
        "variants": sum(len(item.get("variants") or ()) for row in rows for item in row_items(row)),
        "broken": broken,
    }
    schema = row_features().arrow_schema
    table = pa.Table.from_pylist(rows, schema=schema)
    # Statistics are part of the file, so that they are there exactly when the rows are. The schema's own metadata
    # tell `datasets` the types of the columns.
    table = table.replace_schema_metadata({**schema.metadata, METADATA_KEY: json.dumps(statistics).encode()})
    with atomic_write(shard.path) as partial:
        pq.write_table(table, partial)
    return statistics


def broken_row(row: Row, number: int, error: Exception) -> dict[str, Any]:
    """The entry of a row that cannot be used in `broken.jsonl`: its number from 1, its file and line, and why."""
    reason = " ".join(str(error).split())
    if not isinstance(error, (OSError, ValueError)):
        reason = f"{type(error).__name__}: {reason}"
    return {"row": number + 1, "origin": row["origin"], "error": printable(reason)}


def describe_broken(entry: Mapping[str, Any]) -> str:
    """An entry of `broken.jsonl` in words."""
    return f"{entry.get('origin') or 'row {row}'.format(**entry)}: {entry['error']}"


def load_on_device(codec_folder: str | os.PathLike[str]) -> PreTrainedAudioTokenizerBase:
    """Loads a codec by its folder or name, onto the GPU if there is one."""
    return load_named_codec(os.fspath(codec_folder)).to("cuda" if torch.cuda.is_available() else "cpu")


def _encode(waveform: np.ndarray, codec: PreTrainedAudioTokenizerBase) -> list[int]:
    # One by one, so that codes depend on their audio alone, however the codec treats padding.
    # (1, samples)
    batch = torch.from_numpy(waveform).to(codec.device)[None]
    codes = codec.encode(batch, torch.tensor([batch.shape[1]], device=codec.device))[0]
    # Frames of padding have the code -1.
    return codes[codes >= 0].tolist()
