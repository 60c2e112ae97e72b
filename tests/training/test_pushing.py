"""A trained model goes to the Hub without the user's data: a local server lists what arrives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainingArguments

from hub_server import Hub, hub_environment
from ttt_hf.training.pushing import check_push


QUESTION = Path(__file__).parents[2] / "examples" / "question.wav"
SECRET = "My secret number is four."


@pytest.mark.slow  # a process of its own: the Hub's client reads its address when it is imported
@pytest.mark.parametrize("is_public", [False, True])
def test_an_adapter_arrives_without_recordings(hub: Hub, tmp_path: Path, is_public: bool) -> None:
    (tmp_path / "recordings").mkdir()
    shutil.copy(QUESTION, tmp_path / "recordings" / "a.wav")
    (tmp_path / "recordings" / "metadata.csv").write_text(f"file_name,text\na.wav,{SECRET}\n", encoding="utf-8")
    command = [
        *(sys.executable, "-m", "ttt_hf.cli", "train", "lora_asr"),
        f"train_data={{path: {tmp_path / 'recordings'}, task: asr}}",
        *(f"output_dir={tmp_path / 'adapter'}", "max_steps=2", "save_steps=1", "audio_variants=0"),
        *("speak_steps=1", "push_to_hub=true", "hub_model_id=me/model", f"hub_private_repo={not is_public}".lower()),
    ]
    command = command if is_public else [word for word in command if not word.startswith("hub_private_repo")]
    environment = hub_environment(hub.url, tmp_path / "home")
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert sorted(hub.files) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "all_results.json",
        "config.json",
        "curves.png",
        "generation_config.json",
    ]
    content = b"".join(hub.files.values())
    assert SECRET.encode() not in content
    assert str(tmp_path).encode() not in content
    assert [request["visibility"] for request in hub.created] == ["public" if is_public else "private"]
    assert hub.files["adapter_model.safetensors"] == (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    assert not (tmp_path / "adapter" / "prepared").exists() and (tmp_path / "adapter-encoded").is_dir()


def test_a_push_without_a_token_is_refused_before_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(PermissionError, match="hf auth login"):
        check_push(TrainingArguments(output_dir=str(tmp_path), push_to_hub=True, hub_strategy="end"))


def test_keys_of_other_uploads_are_refused(tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), push_to_hub=True, hub_strategy="checkpoint")
    with pytest.raises(ValueError, match="leave out hub_strategy"):
        check_push(arguments)
