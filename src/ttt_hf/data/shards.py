"""Shards of encoded rows: made independently, each by one process, and there only when they are complete."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.modeling_utils import PreTrainedAudioTokenizerBase

from ..atomic_files import whole_file
from ..codecs import load_codec
from ..processing.audio import load_audio
from .augmentation import vary
from .conversations import Row, audio_source, row_items
from .reading import convert_row, row_features
from .sources import Source


METADATA_KEY = b"ttt_hf"


def encode_row(
    row: Mapping[str, Any], codec: PreTrainedAudioTokenizerBase, variants: int = 0, seed: int | Sequence[int] = 0
) -> tuple[Row, float]:
    """Encodes the audio of a canonical row. Codes that it holds already stay.

    Args:
        row: A canonical row.
        codec: The codec.
        variants: Further encodings of each recording that is only listened to, as if it had been said once more (see
            `augmentation.vary`); they stand under `variants`, next to its `codes`. What the model learns to say has
            none: it is to be learned as it is.
        seed: Seed of the variants. More of them begin with the same ones.

    Returns:
        The row with codes in the place of audio, and the seconds of audio encoded.

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
            source = np.asarray(source, dtype=np.float32)
        waveform = load_audio(source, item.get("sampling_rate"), rate)
        seconds += len(waveform) / rate
        encoded: dict[str, Any] = {"type": "audio", "codes": _encode(waveform, codec)}
        if item.get("span"):
            encoded["span"] = item["span"]
        if variants and not is_learned:
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
    """A file to be.

    Args:
        path: Its name.
        start: Number of its first row in the source.
        fingerprint: That of the codec.
        allowed: Rows that may be left out because their audio cannot be read.
        variants: Further encodings of each recording that is only listened to.
        seed: Seed of the variants.
    """

    path: Path
    start: int
    fingerprint: str
    allowed: int
    variants: int
    seed: int


@contextmanager
def shard_facts(
    source: Source,
    shards: list[Shard],
    shard_size: int,
    codec: PreTrainedAudioTokenizerBase,
    codec_folder: str | os.PathLike[str],
    workers: int,
) -> Iterator[Iterator[dict[str, Any]]]:
    """Encodes shards, and gives the facts of each as it is finished."""
    parts = [source.rows.select(range(s.start, min(s.start + shard_size, len(source.rows)))) for s in shards]
    tasks = [(shard, Source(part, source.convert)) for shard, part in zip(shards, parts)]
    if workers == 1 or len(tasks) < 2:
        yield (_encode_shard(shard, part, codec) for shard, part in tasks)
        return
    # Spawned, not forked: this process has threads, and may have touched a GPU.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, _start_worker, (codec_folder,))
    try:
        futures: list[Future[dict[str, Any]]] = [pool.submit(_encode_in_worker, shard, part) for shard, part in tasks]
        yield (future.result() for future in as_completed(futures))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker_codec: PreTrainedAudioTokenizerBase | None = None


def _start_worker(codec_folder: str | os.PathLike[str]) -> None:
    global _worker_codec
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interruption ends a worker without a traceback of its own
    torch.set_num_threads(1)  # the processes are the parallelism
    _worker_codec = load_on_device(codec_folder)


def _encode_in_worker(shard: Shard, part: Source) -> dict[str, Any]:
    if _worker_codec is None:
        raise RuntimeError("This process has no codec: it was not started by encode_source.")
    return _encode_shard(shard, part, _worker_codec)


def _encode_shard(shard: Shard, part: Source, codec: PreTrainedAudioTokenizerBase) -> dict[str, Any]:
    """Encodes the rows of a shard and writes it; gives its facts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, broken, seconds = [], [], 0.0
    for number, row in enumerate(part.rows, start=shard.start):
        canonical = convert_row(row, number, part.convert)
        try:
            # By the number of the row, so that the variants do not depend on the shard or on an interruption.
            encoded, length = encode_row(canonical, codec, shard.variants, (shard.seed, number))
        except (OSError, ValueError) as error:
            broken.append({"row": number, "error": " ".join(str(error).split())})
            check_broken(broken, shard.allowed)
            continue
        if encoded["codec_fingerprint"] not in (None, shard.fingerprint):
            raise ValueError(f"Row {number} of the data holds codes of another codec: encode its audio anew.")
        seconds += length
        rows.append({**encoded, "codec_fingerprint": shard.fingerprint})
    facts = {
        "fingerprint": shard.fingerprint,
        "source_rows": len(part.rows),
        "rows": len(rows),
        "seconds": seconds,
        "variants": sum(len(item.get("variants") or ()) for row in rows for item in row_items(row)),
        "broken": broken,
    }
    schema = row_features().arrow_schema
    table = pa.Table.from_pylist(rows, schema=schema)
    table = table.replace_schema_metadata({**schema.metadata, METADATA_KEY: json.dumps(facts).encode()})
    with whole_file(shard.path) as partial:
        pq.write_table(table, partial)
    return facts


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a finished shard, from its metadata; a `ValueError` where they cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return json.loads((pq.read_schema(path).metadata or {})[METADATA_KEY])
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: delete it, and run the same command again.") from error


def check_broken(broken: list[dict[str, Any]], allowed: int) -> None:
    """A `ValueError` when more rows had to be left out than allowed."""
    if len(broken) > allowed:
        raise ValueError(
            f"More audio cannot be read than the {allowed} rows allowed, e.g. row {broken[0]['row']}: "
            f"{broken[0]['error'].rstrip('.')}. Check the data, or raise max_broken (encode: --max-broken)."
        )


def load_on_device(codec_folder: str | os.PathLike[str]) -> PreTrainedAudioTokenizerBase:
    """Loads a codec, onto the GPU if there is one."""
    return load_codec(codec_folder).to("cuda" if torch.cuda.is_available() else "cpu")


def _encode(waveform: np.ndarray, codec: PreTrainedAudioTokenizerBase) -> list[int]:
    # One by one, so that codes depend on nothing but their audio, whatever the codec makes of padding.
    batch = torch.from_numpy(waveform).to(codec.device)[None]
    codes = codec.encode(batch, torch.tensor([batch.shape[1]], device=codec.device))[0]
    return codes[codes >= 0].tolist()
