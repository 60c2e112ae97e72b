"""What `import ttt_hf` gives: the names, the Auto classes, and the embedded checkpoint."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM

import ttt_hf


def test_names_exist():
    for name in ttt_hf.__all__:
        assert getattr(ttt_hf, name) is not None
    assert ttt_hf.__version__ == "0.1.0"


@pytest.mark.parametrize("auto_class", [AutoModelForCausalLM, AutoModelForMultimodalLM])
def test_auto_classes_load_a_checkpoint_without_its_code(tiny_model, tmp_path, auto_class):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    for code in tmp_path.glob("*.py"):
        code.unlink()
    assert type(AutoConfig.from_pretrained(tmp_path)) is ttt_hf.TtTConfig
    loaded = auto_class.from_pretrained(tmp_path)
    assert type(loaded) is ttt_hf.TtTForConditionalGeneration
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_embedded_checkpoint_that_is_absent_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("ttt_hf.loading.checkpoint_files.__file__", str(tmp_path / "loading" / "files.py"))
    with pytest.raises(FileNotFoundError, match="install the released wheel, or build it") as raised:
        ttt_hf.embedded_checkpoint()
    assert "\n" not in str(raised.value)


def test_embedded_checkpoint_is_a_folder_of_the_package(monkeypatch, tmp_path):
    folder = tmp_path / "checkpoints" / "ttt-tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr("ttt_hf.loading.checkpoint_files.__file__", str(tmp_path / "loading" / "files.py"))
    assert ttt_hf.embedded_checkpoint() == str(folder)
