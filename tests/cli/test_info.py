"""`ttt-hf info`: what it tells, and that it reads headers rather than weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

import ttt_hf


def test_json(run: Callable, checkpoint: Path) -> None:
    result = run("info", checkpoint, "--json")
    assert (result.code, result.err) == (0, "")
    facts = json.loads(result.out)
    weights = load_file(checkpoint / "model.safetensors")
    assert facts["model"] == str(checkpoint)
    assert facts["architecture"] == "TtTForConditionalGeneration"
    assert facts["backbone"] == {"type": "qwen2", "layers": 1, "hidden_size": 16, "max_positions": 512}
    assert facts["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert facts["dtype"] == "F32"
    assert facts["audio_tokens"]["codes"] == 75
    assert facts["audio_tokens"]["mask"] == facts["audio_tokens"]["start"] + 76
    assert len(facts["audio_tokens"]["begin"]) == len(facts["audio_tokens"]["end"]) == 2
    assert facts["vocabulary"] == max(facts["audio_tokens"]["end"]) + 1
    assert facts["codec"]["name"] == "ttt_tiny_codec"
    assert (facts["codec"]["sampling_rate"], facts["codec"]["frame_rate"], facts["codec"]["codes"]) == (
        16000,
        12.5,
        75,
    )
    assert facts["generation"]["audio_steps_per_block"] == 3
    assert facts["bytes"] == sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    assert facts["card"] is None
    assert facts["versions"]["ttt-hf"] == ttt_hf.__version__


def test_text(run: Callable, checkpoint: Path) -> None:
    result = run("info", checkpoint)
    assert result.code == 0
    assert "type qwen2" in result.out
    assert "sampling rate 16000" in result.out


def test_without_codec_and_with_card(run: Callable, checkpoint: Path, tmp_path: Path) -> None:
    for path in checkpoint.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "README.md").write_text("# Card")
    facts = json.loads(run("info", tmp_path, "--json").out)
    assert facts["codec"] is None
    assert facts["card"] == str(tmp_path / "README.md")


def test_folder_that_is_not_a_model(run: Callable, tmp_path: Path) -> None:
    result = run("info", tmp_path)
    assert result.code == 1
    assert result.err.startswith("ttt-hf: error: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("config.json", "begin_audio_token_ids", {"": {}}, "begin_audio_token_ids"),
        ("config.json", "text_config", {"model_type": "qwen2", "use_sliding_window": 2**31}, "use_sliding_window"),
        ("codec/config.json", "hop_length", "/", "hop_length expected int, got str"),
        ("codec/config.json", "hop_length", 0, "hop_length"),
    ],
)
def test_settings_of_a_wrong_kind(
    run: Callable, checkpoint: Path, tmp_path: Path, file: str, key: str, value: object, message: str
) -> None:
    path = Path(shutil.copytree(checkpoint, tmp_path / "model")) / file
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    result = run("info", tmp_path / "model")
    assert result.code == 1
    assert result.err.startswith(f"ttt-hf: error: {path} cannot be used (")
    assert message in result.err
    assert result.err.count("\n") == 1
