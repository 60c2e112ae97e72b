"""Checkpoints of a training: saved atomically, and resumed from only if they are of the same training."""

import pytest
import torch

from ttt_hf.training.adapters import add_adapter
from ttt_hf.training.arguments import ModelArguments
from ttt_hf.training.saving import atomic_checkpoint, check_checkpoint, last_checkpoint


def make_adapter(tiny_model, name="base", seed=0, **keys):
    model = tiny_model(seed=seed)
    model.name_or_path = name
    return add_adapter(model, ModelArguments(**{"lora_rank": 2, **keys}))


@pytest.mark.parametrize("tied", [False, True])
def test_own_checkpoints_pass(tiny_model, tiny_config, tmp_path, tied):
    model = tiny_model(text={"tie_word_embeddings": tied})
    model.save_pretrained(tmp_path / "whole")
    check_checkpoint(tmp_path / "whole", model)
    make_adapter(tiny_model).save_pretrained(tmp_path / "adapter")
    check_checkpoint(tmp_path / "adapter", make_adapter(tiny_model))
    (tmp_path / "sharded").mkdir()  # of FSDP or DeepSpeed
    check_checkpoint(tmp_path / "sharded", model)


@pytest.mark.parametrize(
    ("keys", "difference"),
    [
        ({"lora_rank": 4}, "lora_A.weight is 2 x .* there, 4 x .* here"),
        ({"lora_audio_tokens": False}, "is .* there, missing here"),
        ({"lora_targets": ["q_proj"]}, "is .* there, missing here"),
        ({"name": "other"}, "its model is base, not other"),
    ],
)
def test_another_adapter_is_refused(tiny_model, tmp_path, keys, difference):
    make_adapter(tiny_model).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"of another training .*{difference}.*: name another output_dir"):
        check_checkpoint(tmp_path, make_adapter(tiny_model, **keys))


def test_another_model_is_refused(tiny_model, tmp_path):
    tiny_model(text={"num_hidden_layers": 1}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"layers.1.* is missing there"):
        check_checkpoint(tmp_path, tiny_model())
    with pytest.raises(ValueError, match="of a whole model, not of an adapter"):
        check_checkpoint(tmp_path, make_adapter(tiny_model))


def test_a_checkpoint_whose_saving_was_cut_off_does_not_count(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11", "checkpoint-best"):
        (tmp_path / name).mkdir()
    assert last_checkpoint(tmp_path) is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best"):
        (tmp_path / name / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_half_a_checkpoint_is_not_left_behind(tmp_path):
    folder = tmp_path / "checkpoint-3"

    def save():
        with atomic_checkpoint(folder):
            folder.mkdir()
            (folder / "model.safetensors").write_text("half")
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    with pytest.raises(OSError, match=r"checkpoint-3 cannot be written .*free some space"):
        save()
    assert not folder.exists()


def test_out_of_memory_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(torch.OutOfMemoryError), atomic_checkpoint(tmp_path / "checkpoint-3"):
        raise torch.OutOfMemoryError
