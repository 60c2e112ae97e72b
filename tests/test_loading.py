"""The one loader: names, revisions, adapters, data types, and checkpoints whose parts do not fit."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fixed_reply import make_codec
from ttt_hf import embedded_checkpoint
from ttt_hf.codecs import load_codec
from ttt_hf.loading import base_folder, find_checkpoint, find_folder, load_model_and_processor
from ttt_hf.names import EMBEDDED_NAMES
from ttt_hf.training.adapters import add_adapter
from ttt_hf.training.arguments import ModelArguments


HUB_ID = "somebody/some-model"


@pytest.fixture
def copied(checkpoint, tmp_path):
    """A copy of the checkpoint to change."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


@pytest.fixture
def hub(checkpoint, tmp_path, monkeypatch):
    """A Hub cache with two revisions of a model, `main` and `v2`; returns their folders by revision."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    folders = {}
    for revision, commit in (("main", "a" * 40), ("v2", "b" * 40)):
        (repository / "refs" / revision).write_text(commit)
        folders[revision] = Path(shutil.copytree(checkpoint, repository / "snapshots" / commit))
    edit_weights(folders["v2"] / "model.safetensors", lambda weights: weights["lm_head.weight"].mul_(2))
    return folders


def edit_weights(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def make_adapter(name, folder, revision=None):
    """A random adapter, and the logits of the model with it."""
    torch.manual_seed(0)
    model, _ = load_model_and_processor(name, revision, device="cpu")
    model.name_or_path = str(name)
    keys = ModelArguments(lora_rank=2, lora_audio_tokens=False, lora_targets=["lm_head", "q_proj"], revision=revision)
    adapted = add_adapter(model, keys)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(folder)
    return adapted.eval()


# -- names ------------------------------------------------------------------------------------------------------------


def test_the_embedded_checkpoint_has_names():
    for name in (None, *EMBEDDED_NAMES):
        assert find_checkpoint(name) == Path(embedded_checkpoint())


def test_home_folder_in_names(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(checkpoint, tmp_path / "model")
    make_codec().save_pretrained(tmp_path / "codec")
    model, processor = load_model_and_processor("~/model", codec="~/codec", device="cpu")
    assert (model.config.model_type, processor.codec.name_or_path) == ("ttt", str(tmp_path / "codec"))


def test_revisions_of_a_model_on_the_hub(hub):
    assert find_folder(HUB_ID) == hub["main"]
    plain, second = (load_model_and_processor(HUB_ID, revision, device="cpu")[0] for revision in (None, "v2"))
    assert torch.equal(second.lm_head.weight, 2 * plain.lm_head.weight)
    with pytest.raises(FileNotFoundError, match="no such model in the local cache"):
        find_folder(HUB_ID, "v3")


# -- settings ---------------------------------------------------------------------------------------------------------


def test_settings_of_the_model(checkpoint):
    model, _ = load_model_and_processor(
        str(checkpoint), device="cpu", dtype="bfloat16", attn_implementation="eager", audio_attention="block_causal",
        audio_block_length=3,
    )  # fmt: skip
    assert model.dtype == torch.bfloat16
    assert not model.training
    config = model.config
    assert (config.get_text_config()._attn_implementation, config.audio_attention) == ("eager", "block_causal")
    assert (config.audio_block_length, model.generation_config.audio_block_length) == (3, 3)
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, not 'int8'"):
        load_model_and_processor(str(checkpoint), device="cpu", dtype="int8")


# -- adapters ---------------------------------------------------------------------------------------------------------


def test_an_adapter_is_merged_into_its_base(checkpoint, tmp_path):
    ids = torch.arange(12)[None]
    expected = make_adapter(checkpoint, tmp_path / "adapter")(ids).logits
    model, processor = load_model_and_processor(str(tmp_path / "adapter"), device="cpu")
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert processor.codec is not None


def test_an_adapter_knows_the_revision_of_its_base(hub, tmp_path):
    make_adapter(HUB_ID, tmp_path / "adapter", revision="v2")
    assert base_folder(tmp_path / "adapter") == hub["v2"]


def test_audio_settings_of_an_adapter_hold_unless_others_are_given(checkpoint, tmp_path):
    make_adapter(checkpoint, tmp_path / "adapter")
    (tmp_path / "adapter" / "config.json").write_text('{"audio_attention": "block_causal", "audio_block_length": 3}')
    model, _ = load_model_and_processor(str(tmp_path / "adapter"), device="cpu")
    assert (model.config.audio_attention, model.config.audio_block_length) == ("block_causal", 3)
    model, _ = load_model_and_processor(str(tmp_path / "adapter"), device="cpu", audio_block_length=5)
    assert (model.config.audio_attention, model.config.audio_block_length) == ("block_causal", 5)


def test_an_adapter_with_missing_or_unknown_tensors_is_refused(checkpoint, tmp_path):
    path = tmp_path / "adapter" / "adapter_model.safetensors"

    def rename(weights):
        name = next(name for name in weights if "layers.0" in name)
        weights[name.replace("layers.0", "layers.7")] = weights[name].clone()

    for change in (lambda weights: weights.pop("base_model.model.lm_head.lora_B.weight"), rename):
        make_adapter(checkpoint, tmp_path / "adapter")
        edit_weights(path, change)
        with pytest.raises(ValueError, match=r"does not fit the model .*: write the one that it was trained on"):
            load_model_and_processor(str(tmp_path / "adapter"), device="cpu")


def test_peft_is_missed_before_the_weights_are_read(checkpoint, tmp_path, monkeypatch):
    make_adapter(checkpoint, tmp_path / "adapter")
    base = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    edit_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(base))
    edit_weights(base / "model.safetensors", lambda weights: weights.pop("lm_head.weight"))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"is an adapter, which needs PEFT: pip install 'ttt-hf\[train\]'"):
        load_model_and_processor(str(tmp_path / "adapter"), device="cpu")


# -- parts that do not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.norm.weight"), r"are incomplete \(model.norm.weight ...\)"),
        (
            lambda weights: weights.update(new=torch.zeros(1)),
            r"do not fit its config.json \(it describes no new ...\)",
        ),
        (lambda weights: weights.update({"lm_head.weight": torch.zeros(3, 3)}), "do not fit its config.json"),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_tensors_have_to_be_those_of_the_configuration(copied, change, message):
    edit_weights(copied / "model.safetensors", change)
    with pytest.raises(ValueError, match=message):
        load_model_and_processor(str(copied), device="cpu")


def test_a_codec_with_a_missing_tensor_is_refused(copied):
    name = next(iter(load_file(copied / "codec" / "model.safetensors")))
    edit_weights(copied / "codec" / "model.safetensors", lambda weights: weights.pop(name))
    for load in (lambda: load_codec(copied / "codec"), lambda: load_model_and_processor(str(copied), device="cpu")):
        with pytest.raises(ValueError, match=rf"The weights of the codec .* are incomplete \({name} ...\)"):
            load()
