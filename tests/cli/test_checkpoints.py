"""Checkpoints that are not there, damaged, incomplete or do not fit: one sentence each, and no file."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fixed_reply import make_codec, make_model
from ttt_hf.modeling import TtTConfig
from ttt_hf.processing import TtTProcessor


@pytest.fixture
def ask(run: Callable, tmp_path: Path) -> Callable[[object, str], None]:
    """`ask(model, message)`: talking to this model fails with this message."""

    def call(model: object, message: str) -> None:
        reply = tmp_path / "reply.wav"
        result = run("talk", "--text", "Hello", "--out", reply, "--model", model)
        assert result.code == 1, result
        assert result.err.startswith("ttt-hf: error: ")
        assert result.err.count("\n") == 1, result.err
        assert message in result.err
        assert not result.out
        assert not reply.exists()
        assert not list(tmp_path.glob(".reply*"))

    return call


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model"])
def test_unknown_id_without_network(ask: Callable, name: str) -> None:
    ask(name, f"There is no folder {name}, no such model in the local cache, and the Hub cannot be reached")


@pytest.mark.parametrize("name", ["./no-such-folder", "/no/such/folder", "~/no-such-folder", "a/b/c"])
def test_missing_folder(ask: Callable, name: str) -> None:
    ask(name, f"There is no folder {name}: name the folder of a model")


def test_impossible_id(ask: Callable) -> None:
    ask("not an id!", "is neither a folder nor a Hub id")


def test_file_in_place_of_a_folder(ask: Callable, checkpoint: Path) -> None:
    ask(checkpoint / "config.json", "is a file: name the folder")


def test_folder_that_is_not_a_model(ask: Callable, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    ask(tmp_path / "photos", "is not the folder of a model, it has no config.json")


def test_another_kind_of_model(ask: Callable, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    ask(tmp_path / "bert", "holds a bert model, not a TtT model")


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_damaged_config(ask: Callable, copied: Path, content: str) -> None:
    (copied / "config.json").write_text(content)
    ask(copied, "config.json is damaged")


@pytest.mark.parametrize("part", ["", "codec"])
def test_missing_weights(ask: Callable, copied: Path, part: str) -> None:
    (copied / part / "model.safetensors").unlink()
    ask(copied, "has no model.safetensors, the model's weights")


def test_missing_shard(ask: Callable, copied: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    (copied / "model.safetensors").unlink()
    ask(copied, "has no model-00002-of-00002.safetensors")


@pytest.mark.parametrize("part", ["", "codec"])
@pytest.mark.parametrize("damage", ["cut", "overwritten", "empty"])
def test_damaged_weights(ask: Callable, copied: Path, part: str, damage: str) -> None:
    path = copied / part / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-100], "overwritten": b"<html>" * 100, "empty": b""}[damage])
    ask(copied, f"{path} is damaged")


def test_incomplete_weights(ask: Callable, copied: Path) -> None:
    path = copied / "model.safetensors"
    weights = load_file(path)
    del weights["lm_head.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    ask(copied, "are incomplete (lm_head.weight ...)")


def test_weights_of_another_shape(ask: Callable, copied: Path) -> None:
    path = copied / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"] = weights["lm_head.weight"][:, :8].contiguous()
    save_file(weights, path, metadata={"format": "pt"})
    ask(copied, "do not fit its config.json")


def test_missing_codec(ask: Callable, copied: Path, run: Callable) -> None:
    shutil.rmtree(copied / "codec")
    ask(copied, "has no codec, so the model can neither take in nor generate audio")
    result = run("talk", "--text", "Hello", "--task", "text", "--model", copied, "--max-new-tokens", "2")
    assert (result.code, result.out) == (0, "Hi\n"), result.err


def test_codec_of_another_model(ask: Callable, copied: Path) -> None:
    make_codec((3, 3, 3)).save_pretrained(copied / "codec")
    ask(copied, "The codec has 27 codes, the model 75: use the codec that the model was trained with.")


def test_missing_tokenizer(ask: Callable, copied: Path) -> None:
    (copied / "tokenizer_config.json").unlink()
    ask(copied, "it has no tokenizer_config.json")


def test_tokenizer_of_another_model(ask: Callable, copied: Path, checkpoint: Path) -> None:
    tokenizer = TtTProcessor.from_pretrained(checkpoint).tokenizer
    config = TtTConfig.from_pretrained(checkpoint)
    assert make_model(tokenizer).config.mask_token_id == config.mask_token_id
    edit_json(copied / "config.json", end_audio_token_ids=[config.mask_token_id + 2, config.mask_token_id + 1])
    ask(copied, "number the audio tokens differently")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_block_length": 0}, "audio_block_length must be an integer of at least 1, got 0"),
        ({"audio_steps_per_block": 0}, "audio_steps_per_block must be an integer of at least 1"),
        ({"audio_remasking": "best"}, "audio_remasking must be one of"),
    ],
)
def test_impossible_generation_defaults(ask: Callable, copied: Path, changes: dict, message: str) -> None:
    edit_json(copied / "generation_config.json", **changes)
    ask(copied, message)


def test_impossible_config(ask: Callable, copied: Path) -> None:
    edit_json(copied / "config.json", audio_block_length=0)
    ask(copied, "audio_block_length must be at least 1, got 0")


@pytest.mark.parametrize(
    ("file", "keys", "message"),
    [
        ("config.json", {"num_attention_heads": 0}, "config.json cannot be used (num_attention_heads: "),
        ("config.json", {"num_hidden_layers": 2000, "layer_types": None}, "num_hidden_layers=2000 does not fit"),
        ("config.json", {"intermediate_size": 10**9}, "describes a model of"),
        ("config.json", {"hidden_size": "large"}, "config.json cannot be used (hidden_size expected int, got str"),
        ("config.json", {"hidden_act": "noise"}, "config.json cannot be used (hidden_act: "),
        ("codec/config.json", {"hop_length": 0}, "config.json cannot be used (hop_length must be a positive number"),
        ("codec/config.json", {"fsq_levels": [4]}, "config.json cannot be used (fsq_levels must be odd numbers"),
        ("codec/config.json", {"expansion": 10**9}, "describes a model of"),
        ("codec/config.json", {"n_fft": 10**9 + 1}, "config.json cannot be used (n_fft must be at most 65536"),
        ("codec/config.json", {"sampling_rate": 10**9}, "its sampling_rate is 1e+09 Hz"),
        ("generation_config.json", {"top_k": ""}, "top_k"),
        ("generation_config.json", {"max_new_tokens": "x"}, "generation_config.json cannot be used (max_new_tokens: "),
        ("generation_config.json", {"forced_eos_token_id": "x"}, "cannot be used (forced_eos_token_id: "),
        ("generation_config.json", {"max_new_tokens": 1.5}, "cannot be used (max_new_tokens must be an integer"),
        ("generation_config.json", {"audio_max_span_length": 10**9}, "audio_max_span_length must be at most 4096"),
        ("tokenizer_config.json", {"eos_token": {}}, "eos_token must be of type str"),
        ("tokenizer_config.json", {"model_max_length": [1]}, "model_max_length must be of type int | float"),
        ("tokenizer.json", {"model": 3}, "tokenizer.json cannot be used"),
        ("processor_config.json", {"codec": [1]}, "processor_config.json names the codec '[1]'"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(
    ask: Callable, copied: Path, file: str, keys: dict, message: str
) -> None:
    path = copied / file
    if file == "config.json":
        keys = {"text_config": {**json.loads(path.read_text())["text_config"], **keys}}
    if "codec" in keys:
        shutil.rmtree(copied / "codec")
    edit_json(path, **keys)
    ask(copied, message)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "codec/config.json"])
def test_a_pipe_is_not_waited_for(ask: Callable, copied: Path, name: str) -> None:
    (copied / name).unlink()
    os.mkfifo(copied / name)
    ask(copied, f"{copied / name} is no regular file")


def test_ids_outside_of_the_vocabulary(checkpoint: Path) -> None:
    model = make_model(TtTProcessor.from_pretrained(checkpoint).tokenizer)
    with pytest.raises(ValueError, match=r"id 355, outside the model's vocabulary of 355 tokens"):
        model.generate(torch.tensor([[1, 355]]), max_new_tokens=2)


def test_pickled_weights_are_not_read(ask: Callable, copied: Path) -> None:
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    ask(copied, "only safetensors are read")


def test_official_format_talks(run: Callable, copied: Path) -> None:
    """A flat config.json as the official code writes it, in which nothing says which ids open a span."""
    config = TtTConfig.from_pretrained(copied)
    flat = {
        **config.get_text_config().to_dict(),
        "architectures": ["Qwen2ForARDiffLM"],
        "mask_token": config.mask_token_id,
        "audio_token_id_start": config.audio_token_start_id,
    }
    (copied / "config.json").write_text(json.dumps(flat))
    result = run("talk", "--text", "Hello", "--model", copied, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["audio_seconds"] > 0


# -- adapters ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> Path:
    """An adapter for the checkpoint that makes it say "i" in the place of "H"."""
    from ttt_hf.modeling import TtTForConditionalGeneration
    from ttt_hf.training.adapters import add_adapter
    from ttt_hf.training.arguments import ModelArguments

    processor = TtTProcessor.from_pretrained(checkpoint)
    base = TtTForConditionalGeneration.from_pretrained(checkpoint)
    model = add_adapter(base, ModelArguments(lora_rank=1, lora_audio_tokens=False, lora_targets=["lm_head"]))
    newline, i = processor.tokenizer.convert_tokens_to_ids(["\u010a", "i"])
    with torch.no_grad():
        hidden = base.model.embed_tokens.weight[newline]
        layer = base.lm_head
        layer.lora_A["default"].weight.copy_(hidden[None])
        layer.lora_B["default"].weight.zero_()
        layer.lora_B["default"].weight[i] = 100.0
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_adapter_talks(run: Callable, adapter: Path, checkpoint: Path) -> None:
    assert run("talk", "--text", "Hello", "--task", "text", "--model", checkpoint).out.startswith("Hi")
    result = run("talk", "--text", "Hello", "--task", "text", "--model", adapter)
    assert result.code == 0, result.err
    assert result.out.startswith("i")
    described = run("info", adapter, "--json")
    assert json.loads(described.out)["adapter"] == str(adapter)
    assert json.loads(described.out)["model"] == str(checkpoint)


def test_adapter_for_the_embedded_model_is_found_by_that_name(run: Callable, adapter: Path) -> None:
    edit_json(adapter / "adapter_config.json", base_model_name_or_path="embedded")
    assert json.loads(run("info", adapter, "--json").out)["model"].endswith("ttt-tiny")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("/moved/away", "is for cannot be used: There is no folder /moved/away"),
        (None, "is for cannot be used: It is not named"),
        ("embedded", "does not fit the model"),
    ],
)
def test_adapter_without_its_model(ask: Callable, adapter: Path, base: str | None, message: str) -> None:
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=base)
    ask(adapter, message)


def test_adapter_without_peft(ask: Callable, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    ask(adapter, "is an adapter, which needs PEFT: pip install 'ttt-hf[train]'")


def test_damaged_adapter(ask: Callable, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(b"<html>" * 100)
    ask(adapter, "adapter_model.safetensors is damaged")
