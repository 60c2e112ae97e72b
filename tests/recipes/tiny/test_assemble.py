"""The finished folder: small, loads in full precision, keeps its decoding defaults, and appears only when complete."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recipes.tiny import assemble as stage
from recipes.tiny.settings import TinySettings, load_settings
from recipes.tiny.tables import read_rows
from ttt_hf import TtTForConditionalGeneration, TtTProcessor, embedded_checkpoint
from ttt_hf.codecs import load_codec


def test_weights_are_small_on_disk_and_float32_in_memory(checkpoint: Path, trained_parts: Path) -> None:
    stored = load_file(checkpoint / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert {tensor.dtype for tensor in load_file(checkpoint / "codec" / "model.safetensors").values()} == {
        torch.bfloat16
    }
    model = TtTForConditionalGeneration.from_pretrained(checkpoint)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    trained = TtTForConditionalGeneration.from_pretrained(trained_parts / "model" / "final")
    for name, parameter in trained.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=1e-3, atol=1e-7)


def test_the_codec_makes_the_codes_that_the_model_was_trained_on(checkpoint: Path, trained_parts: Path) -> None:
    waveform = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    codec = TtTProcessor.from_pretrained(checkpoint).codec
    assert {parameter.dtype for parameter in codec.parameters()} == {torch.float32}
    assert torch.equal(codec.encode(waveform), load_codec(trained_parts / "codec").encode(waveform))


def test_recordings_are_heard_as_in_training(checkpoint: Path, trained_parts: Path) -> None:
    processor = TtTProcessor.from_pretrained(checkpoint)
    assert processor.codec.config.trim_silence is True
    heard = {
        name
        for item in read_rows(trained_parts / "data" / "items.jsonl")
        if item["split"] == "train"
        for name in item["question_audio"]
    }
    longest = max(
        row["seconds"] for row in read_rows(trained_parts / "data" / "utterances.jsonl") if row["id"] in heard
    )
    assert longest / 0.85 <= processor.max_audio_seconds < longest / 0.85 + 1


def test_decoding_defaults_survive_loading(checkpoint: Path, small_settings: TinySettings) -> None:
    config = TtTForConditionalGeneration.from_pretrained(checkpoint).generation_config
    settings = small_settings.generation
    for key in (
        "audio_block_length",
        "audio_steps_per_block",
        "audio_temperature",
        "audio_remasking",
        "max_new_tokens",
    ):
        assert getattr(config, key) == getattr(settings, key), key
    tokenizer = TtTProcessor.from_pretrained(checkpoint).tokenizer
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.pad_token_id == tokenizer.pad_token_id


def test_the_embedded_checkpoint_has_the_decoding_defaults_of_the_recipe() -> None:
    stored = json.loads((Path(embedded_checkpoint()) / "generation_config.json").read_text(encoding="utf-8"))
    ids = stored["eos_token_id"], stored["pad_token_id"]
    made = stage.generation_config(load_settings().generation, *ids).to_diff_dict()
    assert {**made, "transformers_version": stored["transformers_version"]} == stored


def test_sampling_keys_are_stored_only_when_text_is_sampled() -> None:
    greedy = stage.generation_config(load_settings().generation, 1, 0).to_diff_dict()
    assert not {"temperature", "top_k", "top_p"} & set(greedy)
    overrides = ["generation.do_sample=true", "generation.temperature=0.7"]
    sampled = stage.generation_config(load_settings(overrides=overrides).generation, 1, 0)
    assert (sampled.do_sample, sampled.temperature) == (True, 0.7)


def test_the_folder_holds_what_a_checkpoint_needs_and_nothing_else(checkpoint: Path) -> None:
    files = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    needed = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert needed | {"codec/config.json", "codec/model.safetensors"} <= files
    assert not [name for name in files if name.endswith((".py", ".pt", ".bin"))]
    assert "auto_map" not in json.loads((checkpoint / "config.json").read_text())
    for path in checkpoint.rglob("*.safetensors"):
        assert path.stat().st_mode & stat.S_IROTH, f"others cannot read {path.name}"


def test_a_folder_over_the_limit_is_refused(recipe_root: Path, small_settings: TinySettings) -> None:
    with pytest.raises(ValueError, match=r"takes \d+\.\d MB and may take 0\.1 MB"):
        stage.assemble(recipe_root, small_settings.generation, size_limit=100_000)
    assert not (recipe_root / "ttt-tiny").exists()


def test_the_limit_is_that_of_the_repository() -> None:
    assert stage.SIZE_LIMIT == 24_000_000


@pytest.mark.parametrize("part", ["model/final", "codec", "tokenizer"])
def test_a_missing_part_is_named(part: str, recipe_root: Path, small_settings: TinySettings) -> None:
    (recipe_root / part).rename(recipe_root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=part):
        stage.assemble(recipe_root, small_settings.generation)


def test_weights_of_another_precision_are_noticed(checkpoint: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    config = (broken / "config.json").read_text().replace('"float32"', '"float16"')
    (broken / "config.json").write_text(config)
    with pytest.raises(ValueError, match="not as float32"):
        stage.check_checkpoint(broken)


def test_installing_replaces_the_old_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    old = tmp_path / "checkpoints" / "ttt-tiny"
    old.mkdir(parents=True)
    (old / "stale.json").write_text("{}")
    installed = stage.install(checkpoint, tmp_path / "checkpoints")
    assert installed == old
    assert not (old / "stale.json").exists()
    assert stage.folder_size(installed) == stage.folder_size(checkpoint)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["ttt-tiny"]
    stage.check_checkpoint(installed)


def test_nothing_is_installed_before_something_is_assembled(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="assemble it first"):
        stage.install(tmp_path / "ttt-tiny", tmp_path / "checkpoints")
    assert not (tmp_path / "checkpoints").exists()


def test_the_command_line(
    recipe_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage.main(["--out", str(recipe_root), "generation.audio_block_length=8"]) == 0
    assert "MB" in capsys.readouterr().out
    stored = json.loads((recipe_root / "ttt-tiny" / "generation_config.json").read_text())
    assert stored["audio_block_length"] == 8
    assert stage.main(["--out", str(recipe_root / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("error: There is no")
