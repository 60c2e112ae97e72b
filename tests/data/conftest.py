"""What the tests of the data room share: a small configuration, the embedded processor, audio files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import Qwen2Config

import ttt_hf
from ttt_hf import TtTConfig, TtTProcessor


def _make_config(audio_attention: str = "span", audio_block_length: int = 8) -> TtTConfig:
    backbone = Qwen2Config(
        vocab_size=640, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    return TtTConfig(
        text_config=backbone,
        audio_token_start_id=511,
        audio_vocab_size=120,
        mask_token_id=632,
        begin_audio_token_ids=[501, 502],
        end_audio_token_ids=[633, 634],
        audio_attention=audio_attention,
        audio_block_length=audio_block_length,
    )


@pytest.fixture
def make_config():
    return _make_config


@pytest.fixture
def config() -> TtTConfig:
    return _make_config()


@pytest.fixture(scope="session")
def embedded() -> TtTProcessor:
    """The processor of the embedded checkpoint, its codec included. Shared: do not change it."""
    return TtTProcessor.from_pretrained(ttt_hf.embedded_checkpoint())


@pytest.fixture(scope="session")
def embedded_config() -> TtTConfig:
    return TtTConfig.from_pretrained(ttt_hf.embedded_checkpoint())


@pytest.fixture
def prepared_data(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps what `datasets` prepares out of the user's cache."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


@pytest.fixture
def make_audio(tmp_path: Path) -> Callable[..., Path]:
    """`make_audio("a.wav", pitch=440, rate=8000)` writes half a second of a tone."""

    def make(name: str, pitch: float = 220.0, rate: int = 16000, seconds: float = 0.5) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(round(seconds * rate)) / rate
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * time), rate)
        return path

    return make
