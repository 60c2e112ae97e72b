"""Audio to codes, once: a data set becomes a folder of Parquet shards that training reads without a codec.

    encoding.json                      what was encoded, by which codec, and what came out
    shard-00000-of-00012.parquet ...   canonical rows whose audio is codes
    broken.jsonl                       audio that could not be read, where there is any

Shards are made independently, in several processes; a shard that is there is complete, so that an interrupted run goes
on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_utils import PreTrainedAudioTokenizerBase

from ..atomic_files import check_folder, whole_file
from .conversations import audio_source, row_items
from .reading import convert_row, require_datasets
from .shards import Shard, check_broken, load_on_device, read_facts, shard_facts
from .sources import ENCODING_FILE, Source


BROKEN_FILE = "broken.jsonl"
# However small a data set is, a few broken files do not stop it.
MIN_BROKEN = 5
DEFAULT_BROKEN_SHARE = 0.01
# What an encoding that says nothing about variants was made with.
_WITHOUT_VARIANTS = {"variants": 0, "seed": 0}
# What a codec's configuration holds besides what it computes.
_VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


@dataclass
class EncodingReport:
    """What came out of an encoding.

    Args:
        rows: Rows written.
        skipped: Rows left out, because audio of theirs could not be read.
        seconds: Seconds of audio that were encoded.
        variants: Variants of recordings.
        shards: Files written.
        fingerprint: `codec_fingerprint` of the codec.
        broken: Of each row left out its number in the source (`row`) and the `error`.
    """

    rows: int = 0
    skipped: int = 0
    seconds: float = 0.0
    variants: int = 0
    shards: int = 0
    fingerprint: str = ""
    broken: list[dict[str, Any]] = field(default_factory=list)


def codec_fingerprint(codec: PreTrainedAudioTokenizerBase) -> str:
    """What tells a codec from all others: codes with the same fingerprint mean the same.

    Args:
        codec: On any device.

    Returns:
        `"sha256:"` and the hash of its configuration and its weights, types of the weights included.
    """
    digest = hashlib.sha256()
    config = {name: value for name, value in codec.config.to_dict().items() if name not in _VOLATILE}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(codec.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def check_fingerprint(data: str | os.PathLike[str] | Any, codec: PreTrainedAudioTokenizerBase) -> None:
    """Checks that codes are those of a codec.

    Args:
        data: A folder that `encode_source` wrote, or canonical rows, as `load_source` gives them. Rows that do not say
            which codec their codes are of pass; of a stream the first row is looked at.
        codec: The codec that the model speaks with.

    Raises:
        FileNotFoundError: If the folder holds no encoding.
        ValueError: If the codes are those of another codec.
    """
    if isinstance(data, (str, os.PathLike)):
        found = {_read_encoding(Path(data))["fingerprint"]}
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
    """Encodes the audio of a data set into a folder. If the folder holds a part of the same encoding, goes on from
    there.

    Args:
        source: Rows, as `open_source` gives them; not a stream.
        codec_folder: Folder or Hub id of the codec.
        out: Where the shards go; made if missing.
        name: What the data are called in `encoding.json`.
        variants: Further encodings of each recording that is only listened to, at another speed, with noise or in
            another room; training draws one of them, or the plain one, anew in each epoch.
        seed: Seed of the variants, which follow from it and the number of the row.
        workers: Processes.
        shard_size: Source rows a shard.
        max_broken: Share of the rows that may be left out because audio cannot be read; by default 1 %, but at least 5
            rows.
        show_progress: Whether to show a progress bar on stderr.

    Returns:
        Of the whole folder, shards that were there before included.

    Raises:
        OSError: If the folder cannot be written.
        ValueError: If the data hold no audio to encode, a row is malformed, the folder holds something else, or more
            audio is broken than allowed.
    """
    require_datasets()
    from tqdm.auto import tqdm

    if workers < 1 or shard_size < 1:
        raise ValueError(f"workers and shard_size must be at least 1, not {workers} and {shard_size}.")
    if variants < 0 or seed < 0:
        raise ValueError(f"variants and seed must not be negative, not {variants} and {seed}.")
    folder = Path(out)
    _check_folder(folder)
    rows = len(source.rows)
    _check_has_audio(source)
    codec = load_on_device(codec_folder)
    fingerprint = codec_fingerprint(codec)
    encoding = {
        "fingerprint": fingerprint,
        "codec": codec.config.model_type,
        "frame_rate": codec.config.frame_rate,
        "codebook_size": codec.config.codebook_size,
        "source": name,
        "source_rows": rows,
        "shard_size": shard_size,
        "variants": variants,
        "seed": seed,
    }
    _begin(folder, encoding)
    count = math.ceil(rows / shard_size)
    allowed = _allowed_broken(rows, max_broken)
    shards = [
        Shard(
            folder / f"shard-{number:05d}-of-{count:05d}.parquet",
            start=number * shard_size,
            fingerprint=fingerprint,
            allowed=allowed,
            variants=variants,
            seed=seed,
        )
        for number in range(count)
    ]
    report = EncodingReport(shards=count, fingerprint=fingerprint)
    missing = []
    for shard in shards:
        if shard.path.is_file():
            _add(report, read_facts(shard.path), allowed)
        else:
            missing.append(shard)
    left = sum(min(shard_size, rows - shard.start) for shard in missing)
    # A bar where someone looks, nothing in a log.
    bar = tqdm(total=rows, initial=rows - left, desc="encoding", unit="row", disable=None if show_progress else True)
    with bar, shard_facts(source, missing, shard_size, codec, codec_folder, workers) as finished:
        for facts in finished:
            _add(report, facts, allowed)
            bar.update(facts["source_rows"])
    report.broken.sort(key=lambda entry: entry["row"])
    if report.broken:
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in report.broken)
        _write_text(folder / BROKEN_FILE, lines)
    if not report.rows:
        raise ValueError(f"No audio of the data could be read, e.g. {report.broken[0]['error']}")
    facts = {"complete": True, "rows": report.rows, "skipped": report.skipped, "seconds": round(report.seconds, 3)}
    _write_text(folder / ENCODING_FILE, json.dumps({**encoding, **facts}, indent=2) + "\n")
    return report


def _add(report: EncodingReport, facts: Mapping[str, Any], allowed: int) -> None:
    report.rows += facts["rows"]
    report.skipped += len(facts["broken"])
    report.seconds += facts["seconds"]
    report.variants += facts.get("variants", 0)
    report.broken += facts["broken"]
    check_broken(report.broken, allowed)


# -- checks -----------------------------------------------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / ENCODING_FILE).is_file():
        raise ValueError(f"{folder} is not empty: name a new folder, or one that holds a part of this encoding.")


def _check_has_audio(source: Source) -> None:
    """Looks for the first row with audio, so that a run without any ends before it begins."""
    has_codes = False
    for number, row in enumerate(source.rows):
        items = list(row_items(convert_row(row, number, source.convert)))
        if any(audio_source(item) is not None for item in items):
            return
        has_codes = has_codes or any(item.get("codes") is not None for item in items)
    why = "their audio is codes already" if has_codes else "their rows have none"
    raise ValueError(f"The data hold no audio to encode, {why}: train on them as they are.")


def _begin(folder: Path, encoding: dict[str, Any]) -> None:
    """Writes down what is going to be encoded, or checks that it is what was begun."""
    if not (folder / ENCODING_FILE).is_file():
        _write_text(folder / ENCODING_FILE, json.dumps({**encoding, "complete": False}, indent=2) + "\n")
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
        encoding["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: delete the folder and encode again.") from error
    return encoding


def _allowed_broken(rows: int, share: float | None) -> int:
    if share is None:
        return max(MIN_BROKEN, int(DEFAULT_BROKEN_SHARE * rows))
    if not 0 <= share <= 1:
        raise ValueError(f"max_broken is a share of the rows, from 0 to 1, not {share}.")
    return int(share * rows)


def _write_text(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
